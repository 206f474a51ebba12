import io
import math

import pytest
from PIL import Image

from benchmarks import readers
from benchmarks.tasks import Picture


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


def test_the_best_setting_and_preparation_are_found() -> None:
    picture = encoded(Image.new("L", (100, 30), 255))
    shown = [Picture(label, picture) for label in ("100x30", "150x30", "150x30", "165x40", "165x40", "165x40")]
    name, read = readers.best_reader({"blind": lambda _: "", "seeing": size_reader}, shown, case_sensitive=True)
    assert name == "seeing, margin 5, stretch 1.5"
    assert read(picture) == "165x40"
