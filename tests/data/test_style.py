import random
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops
from pydantic import ValidationError

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.free_layout import FreeLayout
from components.data.drawing.painting import SynthConfig, SynthPlan, painter
from components.data.drawing.style import DotStyle, GroundStyle, LineStyle, Palette, Style, TextStyle
from components.data.drawing.style_hand import StyleHand
from components.data.drawing.synthetic import in_processes, synthesise
from components.data.sources.sheet import samples
from components.data.window import Window
from pipeline.config.config import DataConfig
from pipeline.config.loading import load_config
from tests.support.drawing import synth_plan

FONTS = tuple(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)) for name in ("DejaVuSans.ttf", "DejaVuSerif-Bold.ttf"))
SPEC = CaptchaSpec(length=4, width=80, height=32)
BLACK, WHITE, BLUE = (Palette(colours=(colour,)) for colour in ((0, 0, 0), (255, 255, 255), (0, 0, 200)))


def style(text: dict[str, Any] | None = None, ground: dict[str, Any] | None = None, **changes: Any) -> Style:
    words: dict[str, Any] = {"size": (20, 20), "start": (8, 8), "baseline": (24, 24), "palette": BLACK} | (text or {})
    behind: dict[str, Any] = {"palette": WHITE} | (ground or {})
    options: dict[str, Any] = {"width": 80, "height": 32, "text": TextStyle(**words), "ground": GroundStyle(**behind)}
    return Style(**options | changes)


def draw(of: Style, label: str = "1234", seed: int = 1) -> np.ndarray:
    image, _ = StyleHand(of, FONTS[:1]).draw(label, random.Random(seed))
    return np.asarray(image).astype(int)


def ink_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the pixels that differ from white."""
    box = ImageChops.invert(Image.fromarray(pixels.astype(np.uint8)).convert("L")).point(lambda value: 255 * (value > 60)).getbbox()
    assert box
    return box


@st.composite
def ranges(draw, low: float, high: float):
    return tuple(sorted((draw(st.floats(low, high)), draw(st.floats(low, high)))))


@st.composite
def counts(draw, high: int):
    return tuple(sorted((draw(st.integers(0, high)), draw(st.integers(0, high)))))


palettes = st.builds(
    lambda colours, spread: Palette(colours=tuple(colours), spread=spread),
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=4),
    st.integers(0, 60),
)
texts = st.builds(
    TextStyle,
    size=ranges(6, 40),
    stretch=ranges(0.5, 1.5),
    stroke=ranges(0, 2),
    start=ranges(-5, 30),
    centred=st.booleans(),
    pitch=st.none() | ranges(4, 30),
    gap=ranges(-4, 8),
    baseline=ranges(10, 40),
    lift=ranges(-4, 4),
    angle=ranges(-40, 40),
    wave=ranges(0, 4),
    scatter=ranges(0, 2),
    scatter_at=st.none() | ranges(0, 60),
    palette=palettes,
    colour_each=st.booleans(),
)
grounds = st.builds(
    GroundStyle,
    palette=palettes,
    end=st.none() | palettes,
    angle=ranges(-180, 180),
    grain=ranges(0, 20),
    grain_scale=st.floats(0, 3),
    frame=st.integers(0, 3),
    frame_palette=palettes,
)
lines = st.builds(
    LineStyle,
    count=counts(4),
    x=ranges(-5, 60),
    y=ranges(-5, 40),
    dx=ranges(-60, 60),
    dy=ranges(-40, 40),
    bend=ranges(-20, 20),
    width=ranges(0, 4),
    end_width=st.none() | ranges(0, 4),
    palette=st.none() | palettes,
    over=st.booleans(),
)
styles = st.builds(
    Style,
    width=st.integers(16, 90),
    height=st.integers(16, 60),
    grey=st.booleans(),
    smooth=st.booleans(),
    text=texts,
    ground=grounds,
    lines=st.lists(lines, max_size=3).map(tuple),
    dots=st.builds(DotStyle, count=counts(20), radius=ranges(0, 3), palette=st.none() | palettes),
    blur=ranges(0, 2),
    jpeg=st.none() | st.tuples(st.integers(20, 60), st.integers(60, 95)),
    variation=st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(styles, st.integers(0, 2**32), st.text("0123456789", min_size=1, max_size=6))
def test_any_style_draws_the_same_picture_of_its_size_again(of, seed, label):
    first, about = StyleHand(of, FONTS).draw(label, random.Random(seed))
    again, same = StyleHand(of, FONTS).draw(label, random.Random(seed))
    assert first.size == (of.width, of.height)
    assert first.mode == ("L" if of.grey else "RGB")
    assert (first.tobytes(), about) == (again.tobytes(), same)
    assert Style.model_validate(of.model_dump(mode="json")) == of


def test_the_text_is_where_the_style_says():
    left, top, right, bottom = ink_box(draw(style()))
    assert left == pytest.approx(9, abs=2)
    assert bottom == pytest.approx(24, abs=1)
    assert bottom - top == pytest.approx(0.73 * 20, abs=2)  # the height of DejaVu's digits
    moved = ink_box(draw(style({"start": (20, 20), "baseline": (28, 28)})))
    assert moved == (left + 12, top + 4, right + 12, bottom + 4)
    wider = ink_box(draw(style({"gap": (5, 5)})))
    assert wider[2] == right + 15
    fixed = ink_box(draw(style({"pitch": (18, 18)})))
    assert fixed[2] - fixed[0] == pytest.approx(3 * 18 + 12, abs=3)
    centred = ink_box(draw(style({"centred": True, "start": (40, 40)})))
    assert centred[0] + centred[2] == pytest.approx(80, abs=3)


@pytest.mark.parametrize(
    ("text", "grows"),
    [({"stroke": (1, 1)}, 1.3), ({"stretch": (1.3, 1.3)}, 1.15), ({"size": (26, 26)}, 1.3), ({"palette": WHITE}, 0)],
)
def test_shape_and_colour_of_the_text_change_the_ink(text, grows):
    plain, changed = (int((draw(of) < 128).any(axis=-1).sum()) for of in (style(), style(text)))
    assert changed >= grows * plain if grows else changed == 0


def test_characters_take_their_own_colours_or_one():
    two = Palette(colours=((200, 0, 0), (0, 0, 200)))

    def colours(each: bool, seed: int) -> set[tuple[int, ...]]:
        pixels = draw(style({"palette": two, "colour_each": each}), "1234567", seed).reshape(-1, 3)
        return {tuple(pixel) for pixel in pixels.tolist()} & set(two.colours)

    assert all(len(colours(False, seed)) == 1 for seed in range(8))
    assert any(len(colours(True, seed)) == 2 for seed in range(8))


def test_a_gradient_goes_from_its_start_to_its_end():
    pixels = draw(style({"palette": WHITE}, {"palette": BLACK, "end": WHITE}))
    assert pixels[0, 0].max() < 10
    assert pixels[0, -1].min() > 245
    turned = draw(style({"palette": WHITE}, {"palette": BLACK, "end": WHITE, "angle": (90, 90)}))
    assert turned[0, -1].max() < 10
    assert turned[-1, 0].min() > 245


def test_lines_dots_and_frame_are_drawn_in_their_colours():
    line = LineStyle(count=(1, 1), x=(0, 0), y=(4, 4), dx=(79, 79), dy=(0, 0), width=(2, 2), palette=BLUE)
    pixels = draw(style(lines=(line,)))
    assert (pixels[4, 5:75] == (0, 0, 200)).all()
    empty = draw(style({"palette": WHITE}, dots=DotStyle(count=(9, 9), radius=(1, 1), palette=BLUE)))
    assert 9 <= (empty[..., 0] < 100).sum() <= 9 * 12
    framed = draw(style(ground={"frame": 2, "frame_palette": BLUE}))
    assert (framed[:2] == (0, 0, 200)).all()
    assert (framed[2, 2:-2] == 255).all()


def test_a_line_under_the_text_leaves_the_text_whole():
    options = {"count": (1, 1), "x": (0, 0), "y": (18, 18), "dx": (79, 79), "dy": (0, 0), "width": (3, 3), "palette": BLUE}
    text = (draw(style(smooth=False)) == 0).all(axis=-1)
    under, over = (draw(style(smooth=False, lines=(LineStyle(**options, over=over),))) for over in (False, True))
    assert (under[text] == 0).all()
    assert (over[text] != 0).any()


def test_without_smooth_edges_there_are_two_colours_only():
    assert set(np.unique(draw(style(smooth=False)))) == {0, 255}
    assert len(np.unique(draw(style()))) > 10


def test_variation_widens_the_ranges():
    def lefts(variation: float) -> set[int]:
        return {ink_box(draw(style(variation=variation), seed=seed))[0] for seed in range(20)}

    assert len(lefts(0)) == 1
    assert len(lefts(0.3)) > 3


def test_a_span_in_a_style_is_the_same_for_any_number_of_workers(tmp_path):
    of = style({"angle": (-20, 20), "wave": (1, 2), "scatter": (0, 1)}, {"grain": (0, 9)}, jpeg=(60, 80))
    plan = synth_plan(SPEC, 12, 1, 4, {"train": 2, "eval": 1, "test": 1}, fonts=FONTS, style=of)
    one = synthesise(plan, tmp_path / "one")
    two = synthesise(plan, tmp_path / "two", lambda plan, root: in_processes(plan, root, workers=2))
    assert [file.model_dump() for file in one.manifest.files] == [file.model_dump() for file in two.manifest.files]
    assert one.manifest.params["style"]["text"]["angle"] == [-20, 20]
    drawn = {captcha.label: captcha.image.tobytes() for captcha in map(painter(plan).paint, range(12))}
    stored = [
        sample for split in ("train", "eval", "test") for sample in samples(one, split, Window((one,), None), DataConfig().picture_rules)
    ]
    assert {sample.label: sample.image.convert("RGB").tobytes() for sample in stored if sample.image} == drawn


def test_styles_cannot_be_mixed_and_ranges_are_ordered(tmp_path):
    with pytest.raises(ValidationError, match="cannot be combined"):
        SynthConfig(style=style(), free=FreeLayout())
    with pytest.raises(ValidationError, match=r"noise_dots are settings of .* remove synth.style"):
        SynthConfig(style=style(), noise_dots=3)
    with pytest.raises(ValidationError, match="the smallest value must come first, not 30"):
        TextStyle(size=(30, 20), start=(0, 0), baseline=(0, 0), palette=BLACK)
    config = tmp_path / "a.yaml"
    SynthConfig(style=style())
    config.write_text("name: a\ndata: {wrong_size: refuse}\nsynth: {style: " + style().model_dump_json() + "}\n")
    with pytest.raises(CaptchaPipelineError, match=r"synth\.style draws sizes other than captcha's 100 x 30"):
        load_config(config)


def test_the_legacy_layout_is_refused(tmp_path):
    plan = SynthPlan(SPEC, SynthConfig(style=style(), fonts=FONTS), {"train": 1}, "book")
    with pytest.raises(CaptchaPipelineError, match=r"synth\.style draws pictures of many sizes"):
        synthesise(plan, tmp_path)
