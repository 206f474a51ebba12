import io
import math
import string
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import readers
from benchmarks.readers import Preparation
from benchmarks.tasks import Picture
from components.data.captcha_spec import CaptchaSpec


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def size_reader(picture: bytes) -> str:
    """Returns the size of a picture as text. Stands in for a reader that works best with one size."""
    width, height = Image.open(io.BytesIO(picture)).size
    return f"{width}x{height}"


def test_a_score_counts_complete_readings_and_positions() -> None:
    answers = {b"1": "AB0", b"2": "ab1", b"3": "AB", b"4": "XBI"}
    shown = [Picture("ABO", b"1"), Picture("AB1", b"2"), Picture("AB1", b"3"), Picture("AB1", b"4")]
    scored = readers.score(answers.__getitem__, shown, case_sensitive=False)
    assert scored.sequence.value == 1 / 4  # "ab1": case does not matter
    assert scored.sequence_alike.value == 2 / 4  # "AB0" too: 0 and O are equal
    assert scored.position.value == pytest.approx(6 / 9)
    assert scored.sequence.lower < 1 / 4 < scored.sequence.upper
    assert readers.score(answers.__getitem__, shown, case_sensitive=True).sequence.value == 0


def test_position_accuracy_is_nan_if_no_reading_has_the_right_length() -> None:
    assert math.isnan(readers.score(lambda _: "", [Picture("AB", b"")], case_sensitive=True).position.value)


def test_a_preparation_enlarges_a_picture_and_an_empty_one_does_nothing() -> None:
    picture = encoded(Image.new("RGB", (100, 30), "white"))
    assert Preparation()(picture) is picture
    assert size_reader(Preparation(margin=5, scale=3, stretch=2.0)(picture)) == "660x120"
    assert str(Preparation()) == "unchanged"
    assert str(Preparation(median=True, margin=5)) == "median, margin 5"


def test_a_median_filter_removes_a_dot() -> None:
    image = Image.new("L", (20, 20), 255)
    image.putpixel((10, 10), 0)
    assert np.asarray(Image.open(io.BytesIO(Preparation(median=True)(encoded(image))))).min() == 255


def test_the_best_setting_and_preparation_are_found() -> None:
    picture = encoded(Image.new("L", (100, 30), 255))
    shown = [Picture(label, picture) for label in ("100x30", "150x30", "150x30", "165x40", "165x40", "165x40")]
    name, read = readers.best_reader({"blind": lambda _: "", "seeing": size_reader}, shown, case_sensitive=True)
    assert name == "seeing, margin 5, stretch 1.5"
    assert read(picture) == "165x40"


def test_ddddocr_is_limited_to_the_charset() -> None:
    classes = ["", *"S5Z2"]
    steps = np.full((6, 1, len(classes)), 0.0)
    for step, (best, second) in enumerate(["S5", "S5", ("", "S"), "S5", "Z2", ("", "2")]):
        steps[step, 0, classes.index(best)], steps[step, 0, classes.index(second)] = 0.6, 0.4

    def classification(_: bytes, probability: bool) -> dict[str, Any]:
        assert probability
        return {"probabilities": steps.tolist()}

    engine = SimpleNamespace(get_charset=lambda: classes, classification=classification)
    assert readers._from_probabilities(engine, string.digits)(b"") == "552"
    assert readers._from_probabilities(engine, "SZ")(b"") == "SSZ"


def test_both_cases_are_allowed_if_case_does_not_matter() -> None:
    assert readers.allowed_characters(CaptchaSpec(charset="AB1", case_sensitive=False)) == "AB1ab"
    assert readers.allowed_characters(CaptchaSpec(charset="AB1")) == "AB1"


def test_a_missing_reader_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError):
        list(readers.tesseract_readers(CaptchaSpec()))
