"""Every kind of picture is kept unchanged, converted, or refused with the right reason."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import DIFFICULTIES, PictureError, PictureRules, inspect_picture
from tests.support.encoded import REFUSED, RGB, RNG, encode, png

SPEC = CaptchaSpec(width=40, height=20)
GREY = CaptchaSpec(width=40, height=20, channels=1)
RULES = PictureRules(max_pixels=10_000, background=(255, 0, 0), wrong_size="resize")


def pixels(encoded: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded))
    assert (image.format, image.mode in ("L", "RGB")) == ("PNG", True)
    assert "transparency" not in image.info
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_pictures_are_kept_byte_for_byte(form: str, mode: str) -> None:
    data = encode(Image.fromarray(RGB).convert(mode), form)
    picture = inspect_picture(data, SPEC, RULES)
    assert picture.encoded == data
    assert (picture.width, picture.height) == (40, 20)


@pytest.mark.parametrize("spec", [SPEC, GREY])
def test_brightness_contrast_and_sharpness(spec: CaptchaSpec) -> None:
    picture = inspect_picture(encode(Image.fromarray(RGB)), spec, RULES)
    values = np.asarray(Image.fromarray(RGB).convert("RGB" if spec.channels == 3 else "L")).astype(float)
    assert picture.brightness == pytest.approx(values.mean())
    assert picture.contrast == pytest.approx(values.std())
    assert picture.sharpness == pytest.approx(np.abs(np.diff(values, axis=1)).mean())


def test_difficulty_follows_contrast() -> None:
    found = []
    for step in (0, 90, 98, 255):
        stripes = np.zeros((20, 40, 3), np.uint8)
        stripes[::2] = step
        found.append(inspect_picture(encode(Image.fromarray(stripes)), SPEC, RULES).difficulty)
    assert found == [DIFFICULTIES[0], DIFFICULTIES[1], DIFFICULTIES[2], DIFFICULTIES[2]]


def test_a_picture_of_one_column_has_no_sharpness() -> None:
    assert inspect_picture(encode(Image.fromarray(RGB[:, :1])), SPEC, RULES).sharpness == 0


@pytest.mark.parametrize("form", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_become_png(form: str) -> None:
    data = encode(Image.new("RGB", (40, 20), (0, 0, 255)), form, lossless=True)
    assert (pixels(inspect_picture(data, SPEC, RULES).encoded) == (0, 0, 255)).all()


def test_alpha_shows_the_background() -> None:
    alpha = np.zeros((20, 40), np.uint8)
    alpha[:, 20:] = 255
    alpha[:, 30:] = 128
    colour = np.zeros((20, 40, 3), np.uint8)
    for data in (encode(Image.fromarray(np.dstack([colour, alpha]))), encode(Image.fromarray(np.dstack([colour[..., 0], alpha]), "LA"))):
        flat = pixels(inspect_picture(data, SPEC, RULES).encoded)
        assert (flat[:, :20] == (255, 0, 0)).all()
        assert (flat[:, 20:30] == 0).all()
        assert (flat[:, 30:] == (127, 0, 0)).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_declared_transparent_shows_the_background(mode: str) -> None:
    image = Image.new("L", (40, 20), 0).convert(mode)
    image.paste(Image.new("L", (20, 20), 255).convert(mode), (20, 0))
    if mode == "P":
        image = image.convert("RGB").quantize(2)
    data = encode(image, transparency=image.getpixel((0, 0)))
    flat = pixels(inspect_picture(data, SPEC, RULES).encoded)
    assert (flat[:, :20] == (255, 0, 0)).all()
    assert (flat[:, 20:] == 255).all()


def test_palette_without_transparency() -> None:
    image = Image.fromarray(RGB).quantize(16)
    assert (pixels(inspect_picture(encode(image), SPEC, RULES).encoded) == np.asarray(image.convert("RGB"))).all()


def test_cmyk() -> None:
    encoded = inspect_picture(encode(Image.new("CMYK", (40, 20), (0, 255, 255, 0)), "TIFF", icc_profile=b"cmyk"), SPEC, RULES).encoded
    assert (pixels(encoded) == (255, 0, 0)).all()
    assert "icc_profile" not in Image.open(io.BytesIO(encoded)).info


def test_one_bit() -> None:
    assert (pixels(inspect_picture(encode(Image.new("1", (40, 20), 1)), SPEC, RULES).encoded) == 255).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey(form: str) -> None:
    values = RNG.integers(0, 65536, (20, 40)).astype(np.uint16)
    encoded = inspect_picture(encode(Image.fromarray(values), form), SPEC, RULES).encoded
    assert (pixels(encoded)[..., 0] == values >> 8).all()


def test_16_bit_colour() -> None:
    values = RNG.integers(0, 65536, (20, 40, 3)).astype(">u2")
    data = png(40, 20, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))
    assert (pixels(inspect_picture(data, SPEC, RULES).encoded) == values >> 8).all()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_picture_has_the_right_reason(kind: str) -> None:
    reason, data = REFUSED[kind]
    with pytest.raises(PictureError) as caught:
        inspect_picture(data, SPEC, RULES)
    assert caught.value.reason == reason


def test_the_message_gives_the_size_of_a_too_large_picture() -> None:
    with pytest.raises(PictureError, match="101x100 pixels, more than the limit of 10000"):
        inspect_picture(REFUSED["large"][1], SPEC, RULES)


def test_a_wrong_size_is_kept_or_refused_by_the_rules() -> None:
    data = encode(Image.fromarray(RGB[:10]))
    assert inspect_picture(data, SPEC, RULES).encoded == data
    refuse = PictureRules(max_pixels=10_000, background=(0, 0, 0), wrong_size="refuse")
    with pytest.raises(PictureError, match="40x10 pixels, not 40x20") as caught:
        inspect_picture(data, SPEC, refuse)
    assert caught.value.reason == "image_size"


@settings(max_examples=200)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]), st.data())
def test_broken_bytes_raise_only_picture_errors(form: str, data: st.DataObject) -> None:
    content = bytearray(encode(Image.fromarray(RGB[:8, :8]), form))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PictureError):
        picture = inspect_picture(bytes(content[: data.draw(st.integers(1, len(content)))]), SPEC, RULES)
        assert picture.width * picture.height <= RULES.max_pixels
