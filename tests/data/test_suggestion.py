import io
import random
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules
from components.data.sources.listing import Entry
from components.data.sources.suggestion import suggest
from pipeline.cli.main import app
from pipeline.config.loading import load_config

RULES = PictureRules(max_pixels=1_000_000, background=(255, 255, 255), wrong_size="resize")


def folder(path: Path, labels: list[str], size=(60, 20), ink="black", ground="white", mode="RGB") -> list[Entry]:
    path.mkdir(exist_ok=True)
    entries = []
    for number, label in enumerate(labels):
        image = Image.new(mode, size(number) if callable(size) else size, ground)
        ImageDraw.Draw(image).text((3, 4), label, fill=ink)
        file = path / f"{label}_{number}.png"
        image.save(file)
        entries.append(Entry(file, file.name, label))
    return entries


def captcha_of(entries: list[Entry]) -> dict:
    values: dict = {}
    for suggestion in suggest(entries, RULES):
        values |= suggestion.values
        assert suggestion.reason
    CaptchaSpec(**values)
    return values


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0123", "4567", "8901"] * 20, {"charset": "digits", "case_sensitive": False, "length": 4}),
        (["012", "345"], {"charset": "digits", "case_sensitive": False, "length": 3}),
        (["A1B2", "0Z"], {"charset": "alnum", "case_sensitive": False, "length": {"min": 2, "max": 4}}),
        (["ab", "x7"], {"charset": "0123456789abcdefghijklmnopqrstuvwxyz", "case_sensitive": False, "length": 2}),
        (["ab2", "b2a"] * 60, {"charset": "2ab", "case_sensitive": False, "length": 3}),
        (["aA", "bB"] * 9, {"charset": "ABab", "case_sensitive": True, "length": 2}),
        (["京都", "大阪"] * 9, {"charset": "京大都阪", "case_sensitive": False, "length": 2}),
    ],
)
def test_charset_and_length_follow_from_the_labels(tmp_path, labels, expected):
    found = captcha_of(folder(tmp_path, labels))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        ((60, 20), 11, (60, 20)),
        ((152, 42), 11, (152, 42)),
        ((200, 50), 11, (180, 44)),
        ((200, 50), 1000, (200, 50)),
        ((640, 80), 1000, (364, 44)),
        ((300, 300), 1000, (64, 64)),
        (lambda number: (190 + 45 * (number % 11), 80), 1000, (360, 44)),
    ],
)
def test_the_size_follows_from_the_pictures_and_is_limited(tmp_path, size, count, expected):
    found = captcha_of(folder(tmp_path, ["12"] * count, size))
    width, height = expected
    assert found["height"] == pytest.approx(height, abs=4)
    assert found["width"] == pytest.approx(width, abs=8)


@pytest.mark.parametrize(
    ("colours", "channels"),
    [
        ({"ink": "black"}, 1),
        ({"ink": 0, "ground": 255, "mode": "L"}, 1),
        ({"ink": (200, 40, 40)}, 1),
        ({"ink": (255, 255, 120)}, 3),
        ({"ink": (60, 120, 60), "ground": (160, 90, 60)}, 3),
    ],
)
def test_pictures_with_low_contrast_in_grey_are_read_in_colour(tmp_path, colours, channels):
    assert captcha_of(folder(tmp_path, ["1234"] * 5, **colours))["channels"] == channels


def test_broken_and_missing_pictures_are_ignored_if_others_can_be_decoded(tmp_path):
    entries = folder(tmp_path, ["12"] * 4)
    (tmp_path / "34_0.png").write_bytes(b"no picture")
    broken = [Entry(tmp_path / name, name, "34") for name in ("34_0.png", "gone.png")]
    assert captcha_of([*broken, *entries])["width"] == 60
    with pytest.raises(CaptchaPipelineError, match=r"No picture can be decoded; the first of 2 is .*34_0\.png"):
        suggest(broken, RULES)
    with pytest.raises(CaptchaPipelineError, match="no labelled picture"):
        suggest([], RULES)


def test_the_command_prints_a_configuration_that_loads(tmp_path):
    rng = random.Random(1)
    folder(tmp_path / "My Shop", ["".join(rng.choices("0123456789", k=rng.randint(3, 5))) for _ in range(90)])
    (tmp_path / "My Shop" / "readme_1.txt").write_text("not a picture")
    result = CliRunner().invoke(app, ["config", "suggest", str(tmp_path / "My Shop"), "--pattern", "{label}_*"])
    assert result.exit_code == 0, result.output
    assert "data import '" in result.output
    file = tmp_path / "my-shop.yaml"
    file.write_text(result.output)
    config = load_config(file)
    assert (config.name, config.data.root) == ("my-shop", "data/my-shop")
    assert config.captcha == CaptchaSpec(
        charset="digits", case_sensitive=False, length={"min": 3, "max": 5}, width=60, height=20, channels=1
    )


def test_the_command_without_a_folder_prints_the_current_configuration():
    result = CliRunner().invoke(app, ["config", "--set", "name=mine"])
    assert yaml.safe_load(io.StringIO(result.output))["name"] == "mine"


def test_the_command_reads_tables(tmp_path):
    entries = folder(tmp_path / "shop", ["12", "34"])
    table = tmp_path / "shop" / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{entry.name},{entry.label}\n" for entry in entries))
    result = CliRunner().invoke(app, ["config", "suggest", str(table)])
    assert yaml.safe_load(io.StringIO(result.output))["name"] == "shop"
    assert "--pattern" not in result.output
