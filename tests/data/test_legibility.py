from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.data.drawing.legibility import contrast_ratio, legibility
from components.data.drawing.painting import SynthPlan, painter
from components.data.drawing.style import DotStyle, GroundStyle, LineStyle, Palette, Style, TextStyle
from components.data.drawing.style_variants import variants
from tests.support.drawing import synth_plan

SPEC = CaptchaSpec(charset="digits", length=4, width=100, height=30)


def plan(spec: CaptchaSpec = SPEC, **synth: Any) -> SynthPlan:
    return synth_plan(spec, 10, 1, 10, {"train": 1, "eval": 1, "test": 1}, **synth)


def two_colours(ink: Any, ground: Any) -> Image.Image:
    image = Image.new("RGB", (40, 20), ground)
    image.paste(ink, (5, 5, 15, 15))
    return image


@pytest.mark.parametrize(
    ("ink", "ground", "ratio"),
    [("black", "white", 21.0), ("white", "black", 21.0), ("#767676", "white", 4.54), ("red", "white", 4.0), ("white", "white", 1.0)],
)
def test_the_contrast_of_two_colours_is_that_of_the_guidelines(ink: str, ground: str, ratio: float) -> None:
    assert contrast_ratio(two_colours(ink, ground)) == pytest.approx(ratio, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (6, 9, 3)))
def test_any_picture_has_a_contrast(pixels: np.ndarray) -> None:
    ratio = contrast_ratio(Image.fromarray(pixels))
    assert 1 <= ratio <= 21
    assert ratio == pytest.approx(contrast_ratio(Image.fromarray(pixels[:, ::-1])))


@pytest.mark.slow
def test_what_people_have_to_read_grows_with_its_cause() -> None:
    plain = legibility(plan(noise_dots=0, noise_curve=False))
    assert plain.characters == 4
    assert plain.overlap is not None
    assert plain.stray is not None
    assert 0 < plain.overlap < 0.2
    assert plain.stray < 0.05, "a picture without noise has next to no ink outside the text"
    crowded, noisy, pale = (legibility(plan(**synth)) for synth in ({"overlap": 0.9}, {"noise_dots": 60}, {"background": (150, 160)}))
    assert crowded.overlap is not None
    assert noisy.stray is not None
    assert crowded.overlap > 2 * plain.overlap
    assert noisy.stray > plain.stray + 0.1
    assert pale.contrast < plain.contrast


@pytest.mark.slow
def test_a_free_style_does_not_tell_its_overlap() -> None:
    found = legibility(plan(CaptchaSpec(charset="digits", length={"min": 4, "max": 6}), free={}))
    assert (found.overlap, found.stray) == (None, None)
    assert 4 <= found.characters <= 6
    assert found.contrast > 1


@pytest.mark.slow
def test_each_variant_changes_one_thing() -> None:
    before = plan(noise_dots=5)
    changed = {}
    for variant in variants(before):
        assert variant.name
        synth = {name for name in type(before.synth).model_fields if getattr(variant.plan.synth, name) != getattr(before.synth, name)}
        changed[variant.name.split(":")[0]] = synth or {"spec"}
    assert changed.pop("more fonts", {"fonts"}) == {"fonts"}, "only where further fonts are installed"
    assert changed == {
        "more dots": {"noise_dots"},
        "one more curve through the text": {"noise_curve"},
        "more overlap": {"overlap"},
        "less contrast": {"background"},
        "one more character, on a picture that is wider in proportion": {"spec"},
    }
    longer = variants(before)[-1].plan.spec
    assert (longer.length, longer.width, longer.height) == (5, 125, 30)


@pytest.mark.slow
def test_variants_of_a_free_style_and_of_a_range_of_lengths() -> None:
    found = variants(plan(CaptchaSpec(charset="digits", length=LengthRange(min=4, max=6)), free={}))
    assert {variant.name.split(":")[0] for variant in found} - {"more fonts"} == {"one more character"}
    assert found[-1].plan.spec.length == LengthRange(min=5, max=7)


STYLE = Style(
    width=100,
    height=30,
    text=TextStyle(size=(20, 20), start=(8, 8), baseline=(22, 22), palette=Palette(colours=((0, 0, 0),))),
    ground=GroundStyle(palette=Palette(colours=((255, 255, 255),))),
)


@pytest.mark.slow
def test_variants_of_a_style_change_one_thing() -> None:
    before = plan(style=STYLE)
    found = {variant.name.split(":")[0]: variant.plan for variant in variants(before)}
    assert found.keys() - {"more fonts"} == {
        "more dots",
        "one more line",
        "characters 3.0 pixels closer together",
        "half the contrast",
        "one more character, on a picture that is wider in proportion",
    }
    *same_size, longer = (painter(found[name]).paint(0).image for name in found)
    assert {image.size for image in same_size} == {(100, 30)}
    assert longer.size == (125, 30)
    now, noisy, lined, pale = (
        legibility(changed) for changed in (before, found["more dots"], found["one more line"], found["half the contrast"])
    )
    assert now.stray == 0
    assert noisy.stray is not None
    assert lined.stray is not None
    assert min(noisy.stray, lined.stray) > 0
    assert pale.contrast < now.contrast
    assert ink_width(found["characters 3.0 pixels closer together"]) < ink_width(before)


@pytest.mark.slow
def test_dots_and_lines_of_a_style_become_more() -> None:
    line = LineStyle(count=(1, 2), x=(0, 0), y=(5, 5), dx=(99, 99), dy=(0, 0))
    crowded = STYLE.model_copy(
        update={"lines": (line,), "dots": DotStyle(count=(5, 7)), "text": STYLE.text.model_copy(update={"pitch": (10, 12)})}
    )
    found = variants(plan(style=crowded))
    styles = {variant.name.split(":")[0]: variant.plan.synth.style for variant in found if variant.plan.synth.style}
    assert styles["more dots"].dots.count == (10, 14)
    assert styles["one more line"].lines == (line.model_copy(update={"count": (2, 3)}),)
    assert styles["characters 3.0 pixels closer together"].text.pitch == (7, 9)


def ink_width(of: SynthPlan) -> int:
    """Returns the width of the text of the first picture, in pixels."""
    columns = np.flatnonzero((np.asarray(painter(of).paint(0).image.convert("L")) < 128).any(axis=0))
    return int(columns[-1] - columns[0])


def test_a_style_at_its_limits_has_fewer_variants() -> None:
    found = variants(plan(CaptchaSpec(charset="digits", length=64, width=2048), overlap=1.0, noise_curve=20, background=(105, 105)))
    assert {variant.name.split(":")[0] for variant in found} <= {"more dots", "more fonts"}
