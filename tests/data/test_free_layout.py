import random
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from fontTools.ttLib import TTFont
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.free_layout import FreeHand, FreeLayout, PixelRange
from components.data.drawing.painting import SynthConfig, SynthPlan, find_fonts, painter
from components.data.drawing.synthetic import synthesise
from components.data.pictures import PictureRules
from components.data.sources.sheet import samples
from components.data.spans import Span, list_spans
from components.data.window import Window
from pipeline.cli.main import app
from tests.support.drawing import synth_plan

FOLDER = str(Path(matplotlib.get_data_path(), "fonts", "ttf"))
SPEC = CaptchaSpec(charset="alnum", case_sensitive=False, length={"min": 2, "max": 4}, width=64, height=16)
RULES = PictureRules(10_000, (255, 255, 255), "resize")
LAYOUT = FreeLayout(width=PixelRange(min=48, max=120), height=PixelRange(min=20, max=28))


def plan(**changes) -> SynthPlan:
    weights = {"train": 2, "eval": 1, "test": 1}
    options: dict[str, Any] = {"spec": SPEC, "count": 40, "seed": 1, "shard_size": 15, "splits": weights, "free": LAYOUT}
    return synth_plan(**options | {"fonts": (FOLDER,)} | changes)


def pictures_of(span: Span) -> list[tuple[str, Image.Image]]:
    """Returns the labels and pictures of all splits."""
    found = [
        (sample.label, sample.image) for split in ("train", "eval", "test") for sample in samples(span, split, Window((span,), None), RULES)
    ]
    return [(label, image) for label, image in found if image is not None]


def test_a_span_has_pictures_of_many_sizes(tmp_path):
    span = synthesise(plan(), tmp_path)
    found = pictures_of(span)
    assert len(found) == 40
    sizes = {image.size for _, image in found}
    assert len(sizes) > 20
    assert all(48 <= width <= 120 and 20 <= height <= 28 for width, height in sizes)
    assert {len(label) for label, _ in found} == {2, 3, 4}
    assert span.manifest.params["free"] == LAYOUT.model_dump()
    assert "noise_dots" not in span.manifest.params
    assert len(span.manifest.params["fonts"]) > 5


def test_the_same_seed_draws_the_same_pictures_in_any_order():
    fonts = find_fonts([FOLDER], SPEC.characters)
    one, other = painter(plan(fonts=fonts)), painter(plan(fonts=fonts))
    forward = [one.paint(index) for index in range(12)]
    backward = [other.paint(index) for index in reversed(range(12))][::-1]
    assert [captcha.label for captcha in forward] == [captcha.label for captcha in backward]
    assert [captcha.image.tobytes() for captcha in forward] == [captcha.image.tobytes() for captcha in backward]
    assert [captcha.params for captcha in forward] == [captcha.params for captcha in backward]


def test_pictures_differ_in_style_and_always_show_the_text():
    hand = FreeHand(LAYOUT, find_fonts([FOLDER], SPEC.characters))
    styles: Counter[str] = Counter()
    for seed in range(120):
        image, params = hand.draw("AB3", random.Random(seed))
        pixels = np.asarray(image, int)
        ground = np.median(pixels.reshape(-1, 3), axis=0)
        # Some pixels differ clearly from the background, and they are spread over many columns.
        columns = np.flatnonzero((np.abs(pixels - ground).max(axis=-1) > 40).any(axis=0))
        assert np.ptp(columns) > image.height / 2
        styles.update({name for name in ("stroke", "lines", "dots", "blur", "jpeg") if params[name]})
        styles["fonts"] += len(params["fonts"]) > 1
    assert all(10 < styles[name] < 110 for name in ("stroke", "lines", "dots", "blur", "jpeg", "fonts"))


def test_the_longest_text_fits_the_narrowest_canvas():
    hand = FreeHand(FreeLayout(width=PixelRange(min=60, max=60), height=PixelRange(min=40, max=40)), find_fonts([FOLDER], "W"))
    for seed in range(30):
        image, _ = hand.draw("W" * 8, random.Random(seed))
        assert image.size == (60, 40)


def test_a_font_without_the_characters_is_skipped_in_a_folder_and_refused_by_name():
    fonts = find_fonts([FOLDER], "AB")
    assert any("DejaVuSans.ttf" in font for font in fonts)
    assert not any("STIXSizOneSymReg" in font for font in fonts)
    symbols = str(Path(FOLDER, "STIXSizOneSymReg.ttf"))
    with pytest.raises(CaptchaPipelineError, match="no glyphs for 2 characters of the charset: AB"):
        find_fonts([symbols], "AB")
    with pytest.raises(
        CaptchaPipelineError, match=r"No font in the folder .* has all characters of the charset; fonts checked \(\.ttf, \.otf\): \d+"
    ):
        find_fonts([FOLDER], "\U00020000\U00020001")


def test_a_font_that_draws_characters_alike_is_refused(tmp_path):
    """A fallback font, for example, draws the same box for every character."""
    with TTFont(Path(FOLDER, "DejaVuSans.ttf")) as font:
        for table in font["cmap"].tables:
            if table.isUnicode():
                table.cmap[ord("B")] = table.cmap[ord("A")]
        font.save(tmp_path / "boxes.ttf")
    assert find_fonts([str(tmp_path)], "AC")
    with pytest.raises(CaptchaPipelineError, match=r"boxes\.ttf draws 2 characters of the charset alike: AB"):
        find_fonts([str(tmp_path / "boxes.ttf")], "ABC")
    with pytest.raises(CaptchaPipelineError, match=r"fonts checked \(\.ttf, \.otf\): 1\."):
        find_fonts([str(tmp_path)], "ABC")


def test_the_command_draws_a_span_and_refuses_the_legacy_layout(tmp_path):
    config = tmp_path / "free.yaml"
    synth = {"fonts": [FOLDER], "free": {"width": {"min": 48, "max": 90}}}
    settings = {"name": "free", "captcha": {"charset": "alnum", "length": 3}, "data": {"root": str(tmp_path / "data")}, "synth": synth}
    config.write_text(yaml.safe_dump(settings))
    options = ["data", "synth", "--config", str(config), "--count", "6"]
    result = CliRunner().invoke(app, [*options, "--workers", "1"])
    assert result.exit_code == 0, result.output
    (span,) = list_spans(tmp_path / "data")
    assert {image.height for _, image in pictures_of(span)} == {80}
    refused = CliRunner().invoke(app, [*options, "--layout", "book"])
    assert "pictures of many sizes" in str(refused.exception)


def test_settings_of_the_other_style_are_refused():
    with pytest.raises(ValidationError, match="font_sizes, noise_dots are settings of the captcha library's style"):
        SynthConfig(free=FreeLayout(), noise_dots=4, font_sizes=(20,))
    with pytest.raises(ValidationError, match="is above max"):
        PixelRange(min=9, max=8)


def test_a_picture_is_stored_as_it_was_drawn(tmp_path):
    span = synthesise(plan(count=8), tmp_path)
    drawn = {captcha.label: captcha.image for captcha in map(painter(plan(fonts=find_fonts([FOLDER], SPEC.characters))).paint, range(8))}
    for label, image in pictures_of(span):
        assert image.convert("RGB").tobytes() == drawn[label].tobytes()
