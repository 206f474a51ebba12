"""Where a picture lies on the canvas, as the decoding puts it there, and which part of a picture a column of the map shows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture, visible_pixels
from components.data.pictures import PictureError, upright_size
from components.data.placement import Box, on_picture, place
from components.training.model import PRESETS, build_model
from tests.support.encoded import encode

SIDES = st.one_of(st.integers(1, 60), st.integers(1, 400))


@settings(max_examples=60)
@given(
    width=SIDES,
    height=SIDES,
    fit=st.sampled_from(["pad", "stretch"]),
    turn=st.one_of(st.none(), st.integers(1, 8)),
    form=st.sampled_from(["PNG", "JPEG"]),
)
def test_the_decoding_puts_the_picture_there(width: int, height: int, fit: str, turn: int | None, form: str) -> None:
    spec = CaptchaSpec(width=40, height=24, channels=3, fit=fit)
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    options = {}
    if turn:
        options["exif"] = Image.Exif()
        options["exif"][274] = turn
    picture = encode(Image.fromarray(noise), form, **options)

    shown = (height, width) if turn and turn > 4 else (width, height)
    assert upright_size(picture) == shown
    box = place(*shown, spec)
    canvas = decode_picture(tf.constant(picture), spec).numpy()
    fitted = tf.image.resize(visible_pixels(tf.constant(picture)), [box.height, box.width], antialias=True)
    inside = canvas[box.top : box.top + box.height, box.left : box.left + box.width]
    np.testing.assert_array_equal(inside, np.clip(np.round(fitted), 0, 255))
    margin = np.ones((spec.height, spec.width), bool)
    margin[box.top : box.top + box.height, box.left : box.left + box.width] = False
    assert len(np.unique(canvas[margin], axis=0)) <= 1, "all around is one colour"


def test_a_size_needs_a_header() -> None:
    with pytest.raises(PictureError):
        upright_size(b"no picture")


def test_attention_on_the_margins_is_left_out_and_columns_are_cut_at_the_sides() -> None:
    spec = CaptchaSpec(length=2, width=40, height=20)  # five columns of eight pixels
    attention = np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0, 0.0]])
    edges, shown = on_picture(attention, Box(10, 0, 20, 20), spec)  # from column 1, without its first quarter, to column 3, with 3/4 of it
    np.testing.assert_allclose(edges, [0, 0.3, 0.7, 1])
    np.testing.assert_allclose(shown, [[0.15, 0.4, 0.15], [0, 0, 0]])


def test_a_picture_as_wide_as_the_canvas_shows_all_attention_but_that_beyond_the_end() -> None:
    spec = CaptchaSpec(length=2, width=36, height=20)  # five columns of eight pixels, the last of which is half outside
    edges, shown = on_picture(np.full((1, 5), 0.2), place(36, 20, spec), spec)
    np.testing.assert_allclose(36 * edges, [0, 8, 16, 24, 32, 36])
    np.testing.assert_allclose(shown, [[0.2, 0.2, 0.2, 0.2, 0.1]])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "length"), [(256, 4), (250, 4), (200, 10)])
def test_a_column_of_the_map_shows_its_place_of_the_canvas(width: int, length: int) -> None:
    """A change of the pixels changes the columns of the map around their place, as far to the left as to the right."""
    spec = CaptchaSpec(length=length, width=width, height=16, channels=1)
    keras.utils.set_random_seed(1)
    model = build_model(spec, PRESETS["vgg-slim"])
    columns = keras.Model(model.inputs, model.get_layer("columns").output)
    count = columns.output.shape[1]
    edges, _ = on_picture(np.full((1, count), 1 / count), Box(0, 0, width, 16), spec)
    column = count // 2
    image = np.random.default_rng(0).normal(size=(1, 16, width, 1)).astype(np.float32)
    changed = image.copy()
    changed[:, :, round(edges[column] * width) : round(edges[column + 1] * width)] += 3
    differ = np.flatnonzero(np.abs(columns(image)[0] - columns(changed)[0]).max(axis=-1) > 1e-6)
    assert differ[0] > 0
    assert differ[-1] < count - 1
    assert column - differ[0] == differ[-1] - column
