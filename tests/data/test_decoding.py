"""Pillow, the import, Transform's graph and the served model see the same pixels, and refuse the same pictures."""

import io
import struct
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from components.base.features import PROBABILITIES, VALID
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import visible_pixels
from components.data.exif import orientation
from components.data.pictures import PictureError, PictureRules, inspect_picture, visible_picture
from components.serving.signatures import export_model
from tests.support.encoded import chunk, encode
from tests.support.odd_pictures import JPEG, PIXELS, REFUSED, TURNED, WHOLE, exif, odd_pngs, saved
from tests.support.transform_run import emitted, transform

pytestmark = pytest.mark.slow

# As many pixel values as logits: the model of these tests returns its picture.
SPEC = CaptchaSpec(charset="ABCDEFGHIJKLMNOPQRSTUVWX", length=12, width=12, height=8)
RULES = {size: PictureRules(max_pixels=1000, background=(255, 255, 255), wrong_size=size) for size in ("resize", "refuse")}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the signatures, by the rule for pictures of another size, and Transform's layer."""
    folder = tmp_path_factory.mktemp("served")
    label = SPEC.characters[: SPEC.max_length]
    output = transform(SPEC, {"train": [emitted(encode(Image.effect_noise((12, 8), 90).convert("RGB")), label, SPEC)]}, folder)
    image = keras.Input((SPEC.height, SPEC.width, 3))
    # The normalisation does not change the values; a model without weights could not be saved.
    logits = keras.layers.Reshape((SPEC.max_length, SPEC.num_classes))(keras.layers.BatchNormalization()(image))
    model = keras.Model(image, logits)
    found: dict[str, Any] = {"transform": output.transform_features_layer()}
    for size, rules in RULES.items():
        export_model(model, output, SPEC, rules.max_pixels, {}, str(folder / size), rules.wrong_size)
        found[size] = tf.saved_model.load(str(folder / size)).signatures["serving_default"]
    return found


@settings(max_examples=250)
@given(case=st.one_of(saved(), odd_pngs()), size=st.sampled_from(["resize", "refuse"]))
def test_import_training_and_serving_see_the_same_pixels(served: dict[str, Any], case: tuple[bytes, np.ndarray], size: str) -> None:
    data, shown = case
    plain = encode(Image.fromarray(shown))
    np.testing.assert_array_equal(np.asarray(visible_picture(data, RULES[size]).convert("RGB")), shown)
    np.testing.assert_array_equal(visible_pixels(tf.constant(data)), shown)

    answer = {name: value.numpy() for name, value in served[size](image=tf.constant([data, plain])).items()}
    if size == "refuse" and shown.shape[:2] != (SPEC.height, SPEC.width):
        assert not answer[VALID].any()
        with pytest.raises(PictureError) as caught:
            inspect_picture(data, SPEC, RULES[size])
        assert caught.value.reason == "image_size"
        return
    assert answer[VALID].all()
    np.testing.assert_array_equal(*answer[PROBABILITIES])
    imported = inspect_picture(data, SPEC, RULES[size]).encoded
    seen = [pixels.numpy() for pixels in served["transform"]({"image": tf.constant([data, imported, plain])})["pixels"]]
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_picture_that_the_import_refuses_is_not_served(served: dict[str, Any], kind: str) -> None:
    reason, data = REFUSED[kind]
    with pytest.raises(PictureError) as caught:
        inspect_picture(data, SPEC, RULES["resize"])
    assert caught.value.reason == reason
    assert not served["resize"](image=tf.constant([data]))[VALID].numpy().any()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_complete_picture_is_kept_byte_for_byte(kind: str) -> None:
    data, shown = WHOLE[kind]
    assert inspect_picture(data, SPEC, RULES["resize"]).encoded == data
    np.testing.assert_array_equal(np.asarray(visible_picture(data, RULES["resize"])), shown)
    np.testing.assert_array_equal(visible_pixels(tf.constant(data)), shown)


@st.composite
def exif_data(draw: st.DrawFn) -> bytes:
    """Draws a TIFF header with one directory, correct or slightly wrong."""
    order = draw(st.sampled_from(["<", ">"]))
    entries = [
        struct.pack(
            f"{order}HHIHH",
            draw(st.sampled_from([271, 274, 274, 275])),
            draw(st.sampled_from([3, 3, 3, 4])),
            draw(st.sampled_from([1, 1, 1, 2, 65536])),
            draw(st.integers(0, 9)),
            0,
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    start = draw(st.sampled_from([8, 8, 9, 14]))
    count = draw(st.sampled_from([len(entries), len(entries), len(entries) + 1, 65535]))
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
    data = bytearray(header + bytes(start - 8) + struct.pack(f"{order}H", count) + b"".join(entries))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


DECODED = np.asarray(Image.open(io.BytesIO(JPEG)))
SEGMENTS = st.tuples(
    # APP14 would change the colours.
    st.sampled_from([b"\xff\xe1"] * 3 + [b"\xff\xe0", b"\xff\xe2", b"\xff\xed", b"\xff\xfe"]),
    st.one_of(exif_data().map(b"Exif\0\0".__add__), st.binary(max_size=20), st.just(b"http://ns.adobe.com/xap/1.0/\0")),
)


@settings(max_examples=200)
@given(st.lists(SEGMENTS, max_size=3))
@example([(b"\xff\xfe", b"x")] * 62 + [(b"\xff\xe1", exif(6).tobytes())])
@example([(b"\xff\xfe", b"x")] * 63 + [(b"\xff\xe1", exif(6).tobytes())])
@example([(b"\xff\xfe", b"x")] * 64 + [(b"\xff\xe1", exif(6).tobytes())])
def test_a_jpeg_with_any_exif_data_is_turned_consistently(segments: list[tuple[bytes, bytes]]) -> None:
    data = JPEG[:2] + b"".join(marker + struct.pack(">H", 2 + len(content)) + content for marker, content in segments) + JPEG[2:]
    expected = TURNED[orientation(data)](DECODED)
    np.testing.assert_array_equal(visible_pixels(tf.constant(data)), expected)
    np.testing.assert_array_equal(np.asarray(visible_picture(data, RULES["resize"])), expected)


CHUNKS = st.one_of(
    st.tuples(st.just(b"eXIf"), exif_data()),
    st.tuples(st.just(b"tEXt"), st.sampled_from([b"Title\0eXIf", b"Title\0" + chunk(b"eXIf", exif(6).tobytes()[6:])])),
)


@settings(max_examples=200)
@given(st.lists(CHUNKS, max_size=3), st.lists(CHUNKS, max_size=1))
@example([(b"tEXt", b"A\0b")] * 63 + [(b"eXIf", exif(6).tobytes()[6:])], [])
@example([(b"tEXt", b"A\0b")] * 64 + [(b"eXIf", exif(6).tobytes()[6:])], [])
def test_a_png_with_any_exif_data_is_turned_consistently(before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> None:
    plain = encode(Image.fromarray(PIXELS))
    chunks, last = (b"".join(chunk(*one) for one in several) for several in (before, after))
    data = plain[:33] + chunks + plain[33:-12] + last + plain[-12:]
    expected = TURNED[orientation(data)](PIXELS)
    np.testing.assert_array_equal(visible_pixels(tf.constant(data)), expected)
    np.testing.assert_array_equal(np.asarray(visible_picture(data, RULES["resize"])), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(10))
def test_an_imported_picture_is_upright_and_needs_no_turn(form: str, turn: int) -> None:
    data = encode(Image.fromarray(PIXELS), form, exif=exif(turn))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    imported = inspect_picture(data, SPEC, RULES["resize"])
    assert (imported.height, imported.width) == shown.shape[:2]
    np.testing.assert_array_equal(visible_pixels(tf.constant(imported.encoded)), shown)
    assert orientation(imported.encoded) == 1


def test_broken_exif_data_of_other_formats_is_ignored(tmp_path: Path) -> None:
    data = encode(Image.fromarray(PIXELS), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(np.asarray(visible_picture(data, RULES["resize"])), PIXELS)
