import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.glyphs import glyph_of
from components.data.drawing.painting import find_fonts
from components.data.drawing.style import DotStyle, GroundStyle, LineStyle, Palette, Style, TextStyle
from components.data.drawing.style_hand import StyleHand
from components.data.pictures import PictureRules
from components.data.spans import list_spans
from components.data.style_fit import style_search
from components.data.style_fit.glyph_matching import Hand, Matcher, find_hands
from components.data.style_fit.picture_features import features, grounds, ink_of
from components.data.style_fit.real_pictures import RealPictures, read_sample
from components.data.style_fit.style_estimates import Measures, frame_of, jpeg_quality
from components.data.style_fit.style_search import fit_style
from components.data.style_fit.traced_font import trace
from components.data.style_fit.two_sample import Distance, auc, compare
from pipeline.cli.main import app
from tests.support.encoded import encode
from tests.support.html_page import read_page

FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
BOLD, SANS, SERIF = (str(FOLDER / name) for name in ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif.ttf"))
SPEC = CaptchaSpec(length=4, width=80, height=32)
RULES = PictureRules(max_pixels=1_000_000, background=(255, 255, 255), wrong_size="resize")


def style(**changes: Any) -> Style:
    """Returns a style with dark text on a light background, and some lines."""
    dark = Palette(colours=((20, 20, 90), (90, 20, 20), (20, 70, 20)), spread=6)
    light = Palette(colours=((240, 240, 225), (225, 240, 240)), spread=4)
    grey = Palette(colours=((140, 140, 140),))
    options: dict[str, Any] = {
        "width": 80,
        "height": 32,
        "text": TextStyle(size=(22, 22), start=(7, 10), gap=(2, 3), baseline=(23, 25), palette=dark),
        "ground": GroundStyle(palette=light),
        "lines": (LineStyle(count=(2, 4), x=(0, 70), y=(0, 31), dx=(6, 14), dy=(-4, 4), width=(1.5, 1.5), palette=grey),),
    }
    return Style(**options | changes)


def pictures(of: Style, count: int, seed: int = 1, font: str = BOLD, digits: str = SPEC.characters) -> list[tuple[Image.Image, str]]:
    hand, rng = StyleHand(of, [font]), random.Random(seed)
    labels = ["".join(rng.choices(digits, k=4)) for _ in range(count)]
    return [(hand.draw(label, rng)[0], label) for label in labels]


def stack(drawn: list[tuple[Image.Image, str]]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB"), np.float32) for image, _ in drawn])


def features_of(of: Style, count: int, seed: int = 1, font: str = BOLD) -> np.ndarray:
    return features(stack(pictures(of, count, seed, font)))[0]


def folder(path: Path, drawn: list[tuple[Image.Image, str]], form: str = "PNG", **options: Any) -> Path:
    path.mkdir(exist_ok=True)
    for number, (image, _) in enumerate(drawn):
        (path / f"{number}.{form.lower()}").write_bytes(encode(image, form, **options))
    return path


@pytest.fixture(scope="module")
def names() -> list[str]:
    return features(stack(pictures(style(), 1)))[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        {"blur": (0.8, 0.8)},
        {"ground": GroundStyle(palette=Palette(colours=((200, 200, 200),)))},
        {"lines": ()},
        {"text": style().text.model_copy(update={"size": (19.0, 19.0)})},
        {"dots": DotStyle(count=(20, 30), radius=(0.5, 0.5))},
        {"jpeg": (40, 40)},
    ],
)
def test_the_classifier_knows_a_wrong_style_and_not_the_true_one(wrong, names):
    real, again, none = features_of(style(), 60), features_of(style(), 120, seed=2), np.zeros((0, len(names)), np.float32)
    same = compare(real, again, none, names)
    assert same.lower < 0.5 < same.upper
    different = compare(real, features_of(style(**wrong), 120, seed=2), none, names)
    assert different.auc > 0.9
    assert sum(share for _, share in different.signs) == pytest.approx(1)
    measure = Distance(real, names)
    assert measure(again) < 0.8 * measure(features_of(style(**wrong), 120, seed=2))


def test_features_have_names_and_are_finite(names):
    found = features_of(style(), 3)
    assert found.shape == (3, len(names))
    assert np.isfinite(found).all()
    blank, _ = features(np.full((2, 16, 16, 3), 255, np.float32))
    assert np.isfinite(blank).all()


def test_the_area_under_the_curve_counts_pairs():
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auc(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auc(np.array([1.0]), np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx(1.5 / 4)


def test_the_plane_of_the_background_is_found_under_text():
    ground = GroundStyle(palette=Palette(colours=((100, 120, 140),)), end=Palette(colours=((200, 220, 240),)))
    (plane,) = grounds(stack(pictures(style(ground=ground), 1)))
    assert plane[0].tolist() == pytest.approx([150, 170, 190], abs=2)
    assert plane[1].tolist() == pytest.approx([100, 100, 100], abs=4)
    assert abs(plane[2]).max() < 4


@pytest.mark.slow
def test_matching_finds_the_font_and_reads_the_characters():
    drawn = pictures(style(), 12)
    ink = ink_of(stack(drawn), grounds(stack(drawn)))
    steps: list[tuple[int, int]] = []
    best, *_ = find_hands(ink, [SERIF, SANS, BOLD], SPEC, lambda done, total: steps.append((done, total)))
    assert best.hand.font == BOLD
    assert best.hand.size * best.hand.stretch**0.5 == pytest.approx(22, rel=0.06)
    assert steps[-1][0] == steps[-1][1]
    texts = ["".join(one.character for one in best.placed if one.picture == number) for number in range(len(drawn))]
    assert sum(text == label for text, (_, label) in zip(texts, drawn, strict=True)) >= 10


@pytest.mark.slow
def test_labels_of_many_lengths_are_found():
    spec = CaptchaSpec(length={"min": 2, "max": 5}, width=80, height=32)
    hand, rng = StyleHand(style(lines=()), [BOLD]), random.Random(4)
    labels = ["12", "345", "6789", "70", "241"]
    drawn = [(hand.draw(label, rng)[0], label) for label in labels]
    found = Matcher(ink_of(stack(drawn), grounds(stack(drawn))), spec).match(Hand(BOLD, 22))
    assert ["".join(one.character for one in found.placed if one.picture == number) for number in range(5)] == labels


@pytest.mark.slow
def test_a_traced_font_draws_what_was_traced(tmp_path):
    drawn = pictures(style(), 40)
    ink = ink_of(stack(drawn), grounds(stack(drawn)))
    match = Matcher(ink, SPEC).match(Hand(SANS, 22))
    font = trace(ink, match, SPEC.characters, smooth=True)
    assert font == trace(ink, match, SPEC.characters, smooth=True)
    path = tmp_path / "traced.ttf"
    path.write_bytes(font)
    assert find_fonts([str(path)], SPEC.characters) == (str(path),)

    def drawn_with(name: str, character: str) -> np.ndarray:
        canvas = Image.new("L", (30, 40))
        glyph = glyph_of(character, name, 22.0)
        canvas.paste(glyph.mask, (5 + round(glyph.left), 30 + round(glyph.top)))
        return np.asarray(canvas, int)

    for character in SPEC.characters:
        true = drawn_with(BOLD, character)
        off, before = (
            min(np.abs(np.roll(drawn_with(name, character), step, axis=1) - true).sum() for step in (-2, -1, 0, 1, 2))
            for name in (str(path), SANS)
        )
        assert off < 0.6 * before


def test_frames_and_qualities_of_jpegs_are_measured():
    framed = style(ground=GroundStyle(palette=Palette(colours=((240, 240, 240),)), frame=2))
    assert frame_of(stack(pictures(framed, 5))) == 2
    assert frame_of(stack(pictures(style(), 5))) == 0
    image = pictures(style(), 1)[0][0]
    for quality in (30, 75, 90):
        with Image.open(io.BytesIO(encode(image, "JPEG", quality=quality))) as opened:
            assert jpeg_quality(opened) == quality
    assert jpeg_quality(image) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"gap": (2, 2)}, {"pitch": None, "centred": False}),
        ({"centred": True, "start": (40, 40), "gap": (0, 5)}, {"centred": True}),
        ({"angle": (-24, 24)}, {"angle": (-20, 20)}),
        ({"colour_each": True}, {"colour_each": True}),
        ({"size": (19, 25), "size_each": True}, {"size_each": True}),
    ],
)
def test_what_can_be_seen_is_measured(text, expected):
    true = style(text=style().text.model_copy(update=text), lines=())
    pixels = stack(pictures(true, 30))
    match = Matcher(ink_of(pixels, grounds(pixels)), SPEC).match(Hand(BOLD, 22))
    found = Measures(pixels, 0, match).style(grey=False, quality=None)
    for name, value in expected.items():
        assert getattr(found.text, name) == (pytest.approx(value, abs=10) if name == "angle" else value)
    assert np.mean(found.text.baseline) == pytest.approx(24, abs=1)
    assert (found.width, found.height, found.grey, found.jpeg) == (80, 32, False, None)


@pytest.mark.long
def test_the_search_recovers_a_style(tmp_path):
    real = read_sample(folder(tmp_path / "real", pictures(style(), 60)), RULES)
    steps: list[tuple[str, int, int]] = []
    fitted = fit_style(real, find_fonts([str(FOLDER)], SPEC.characters), SPEC, tmp_path / "a.ttf", lambda *step: steps.append(step))
    found = fitted.style
    assert (found.width, found.height) == (80, 32)
    assert {"DejaVuSans-Bold.ttf"} == {Path(font).name for font in fitted.fonts} or "a-" in fitted.fonts[0]
    assert np.mean(found.text.size) * np.mean(found.text.stretch) ** 0.5 == pytest.approx(22, rel=0.1)
    assert np.mean(found.text.baseline) == pytest.approx(24, abs=1.5)
    assert abs(np.mean(found.ground.palette.colours, axis=0) - (232, 240, 232)).max() < 10
    assert np.mean(found.lines[0].count) == pytest.approx(3, abs=2)
    assert fitted.comparison.auc < 0.95
    assert all(done <= total for _, done, total in steps)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(style_search, "_GENERATIONS", 1)
    monkeypatch.setattr(style_search, "_POPULATION", 3)
    monkeypatch.setattr(style_search, "_ELITE", 2)
    monkeypatch.setattr(style_search, "_DRAWN", 8)
    monkeypatch.setattr(style_search, "_JUDGED_AGAINST", 40)


@pytest.mark.slow
def test_the_command_writes_a_section_that_data_synth_draws_with(tmp_path, quick):
    real = folder(tmp_path / "shop", pictures(style(), 52))
    (real / "note.txt").write_text("not a picture")
    config, page = tmp_path / "shop.yaml", tmp_path / "pages" / "style.html"
    values = {"name": "shop", "captcha": {"length": 4, "width": 80, "height": 32}, "data": {"root": str(tmp_path / "data")}}
    config.write_text(yaml.safe_dump(values))
    options = ["--config", str(config), "--set", f"synth.fonts=[{BOLD}, {SERIF}]", "--page", str(page)]
    result = CliRunner().invoke(app, ["synth", "fit", str(real), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert str(page) in result.stderr
    section = yaml.safe_load(result.stdout)
    assert (section["synth"]["style"]["width"], section["synth"]["style"]["variation"]) == (80, 0.4)
    assert result.stdout.count("#") > 5
    config.write_text(config.read_text() + result.stdout)
    drawn = CliRunner().invoke(app, ["data", "synth", "--config", str(config), "--count", "8", "--workers", "1"], catch_exceptions=False)
    assert drawn.exit_code == 0, drawn.output
    assert len(list_spans(tmp_path / "data")) == 1
    shown = read_page(page)
    assert len([tag for tag in shown.tags if tag == "img"]) == 48
    assert "image_undecodable" in shown.text
    assert "What gives the drawn pictures away" in shown.text
    assert all(address.startswith("data:image/png;base64,") for address in shown.addresses)


def test_folders_that_cannot_be_used_are_explained(tmp_path):
    with pytest.raises(CaptchaPipelineError, match=r"has 0 usable pictures\. At least 50"):
        read_sample(folder(tmp_path / "empty", []), RULES)
    few = folder(tmp_path / "few", pictures(style(), 3))
    (few / "a.png").write_bytes(b"not a picture")
    (few / "b.png").write_bytes(encode(Image.new("RGB", (2000, 2000))))
    with pytest.raises(CaptchaPipelineError, match=r"has 3 usable pictures.*\n  1 left out: image_\w+\n  1 left out: image_\w+"):
        read_sample(few, RULES)
    sizes = folder(tmp_path / "sizes", pictures(style(), 49) + [(Image.new("RGB", (40 + n, 20)), "") for n in range(9)])
    with pytest.raises(CaptchaPipelineError, match="49 usable pictures of the commonest size, 80x32"):
        read_sample(sizes, RULES)
    tiny = folder(tmp_path / "tiny", [(Image.new("RGB", (12, 12), (n, 0, 0)), "") for n in range(50)])
    with pytest.raises(CaptchaPipelineError, match=r"12x12 pixels\. They must be at least 16"):
        read_sample(tiny, RULES)
    missing = CliRunner().invoke(app, ["synth", "fit", str(tmp_path / "missing")])
    assert "missing does not exist" in str(missing.exception)


@pytest.mark.slow
def test_pictures_without_text_are_refused(tmp_path):
    rng = np.random.default_rng(3)
    noise = rng.integers(180, 255, (50, 24, 60, 3)).astype(np.float32)
    blank = RealPictures(noise, tuple(map(str, range(50))), False, None, Counter())
    with pytest.raises(CaptchaPipelineError, match="No characters of the charset were found"):
        fit_style(blank, [BOLD], SPEC, tmp_path / "a.ttf", lambda *step: None)


def test_a_sample_says_what_the_pictures_have_in_common(tmp_path):
    grey = folder(tmp_path / "grey", [(image.convert("L"), label) for image, label in pictures(style(), 50)], "JPEG", quality=60)
    found = read_sample(grey, RULES)
    assert (found.grey, found.quality, len(found.names), found.pixels.shape) == (True, 60, 50, (50, 32, 80, 3))
    assert found.names != tuple(sorted(found.names))
    assert not read_sample(folder(tmp_path / "colour", pictures(style(), 50)), RULES).grey
