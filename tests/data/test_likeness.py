"""The perceptual hash separates different captchas, and matches a captcha that was encoded again or resized."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import CaptchaPainter
from components.data.likeness import MAX_DISTANCE, bands, distance, look_of
from tests.support.drawing import synth_plan

SPECS = [CaptchaSpec(), CaptchaSpec(charset="alnum", width=128, height=64), CaptchaSpec(length=1, width=40, height=40)]


def captchas(spec: CaptchaSpec, count: int) -> list[Image.Image]:
    painter = CaptchaPainter(synth_plan(spec, count, 3, count, {"train": 1, "eval": 1, "test": 1}))
    return [painter.paint(index).image for index in range(count)]


def look(picture: Image.Image) -> bytes:
    found = look_of(picture)
    assert found is not None
    return found


def encoded_again(picture: Image.Image, **options: Any) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize("spec", SPECS)
def test_different_captchas_are_far_apart(spec: CaptchaSpec) -> None:
    looks = [look(picture) for picture in captchas(spec, 100)]
    assert min(distance(one, other) for one, other in itertools.combinations(looks, 2)) > 2 * MAX_DISTANCE


@pytest.mark.parametrize("spec", SPECS)
def test_a_reencoded_or_resized_captcha_is_near(spec: CaptchaSpec) -> None:
    for picture in captchas(spec, 30):
        copies = [encoded_again(picture, format="JPEG", quality=quality) for quality in (75, 85, 95)]
        copies += [encoded_again(picture, format="WEBP", quality=90), encoded_again(picture, format="PNG"), picture.convert("L")]
        for scale in (0.75, 0.9, 1.1, 1.25):
            copies.append(picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC))
        assert max(distance(look(picture), look(copy)) for copy in copies) <= MAX_DISTANCE


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_of_one_colour_or_of_stripes_has_no_hash(mode: str) -> None:
    assert look_of(Image.new(mode, (100, 30), 77)) is None
    stripes = np.tile(np.random.default_rng(1).integers(0, 256, 100, np.uint8), (30, 1))
    assert look_of(Image.fromarray(stripes).convert(mode)) is None


@given(st.binary(min_size=32, max_size=32), st.sets(st.integers(0, 255), max_size=15))
def test_near_hashes_share_a_band(one: bytes, flipped: set[int]) -> None:
    bits = np.unpackbits(np.frombuffer(one, np.uint8))
    bits[list(flipped)] ^= 1
    other = np.packbits(bits).tobytes()
    assert distance(one, other) == len(flipped)
    assert set(bands(one)) & set(bands(other))
    assert len(set(bands(one))) == 16
