"""Text that is drawn faster than by the captcha library, pixel for pixel the same."""

import random
from pathlib import Path

import matplotlib
import pytest
from captcha.image import DEFAULT_FONTS, ImageCaptcha
from hypothesis import given
from hypothesis import strategies as st

from components.data.drawing.captcha_text import CaptchaText

SERIF = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf"))  # some characters begin left of the pen
SIZES = ((160, 60, (42, 50, 56)), (100, 30, (26, 28, 30)), (40, 12, (6,)))


@pytest.fixture(autouse=True)
def same_random_state():
    state = random.getstate()
    yield
    random.setstate(state)


@given(
    text=st.text(st.sampled_from("0123456789abcjWX.,|'ö "), min_size=1, max_size=8),
    size=st.sampled_from(SIZES),
    fonts=st.sampled_from([DEFAULT_FONTS, [SERIF], [*DEFAULT_FONTS, SERIF]]),
    colour=st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(128, 255)),
    overlap=st.sampled_from([0.0, 0.25, 0.9]),
    seed=st.integers(0, 2**32),
)
def test_pictures_and_random_numbers_are_those_of_the_library(text, size, fonts, colour, overlap, seed):
    width, height, font_sizes = size
    drawn = []
    for kind in (ImageCaptcha, CaptchaText):
        generator = kind(width, height, fonts, font_sizes)
        generator.word_offset_dx = overlap
        random.seed(seed)
        drawn.append((generator.create_captcha_image(text, colour, (250, 240, 245)).tobytes(), random.random()))
    assert drawn[0] == drawn[1]
