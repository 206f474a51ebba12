"""The readings that become labels: those that do not change when the picture moves, and no more than may be wrong."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.sources.listing import Entry
from components.data.sources.sift import Imported
from pipeline.inference.pseudo_labels import Guess, guesses, moved, surest
from pipeline.inference.served_model import ServedModel
from tests.support.exported_model import PICTURES
from tests.support.exported_version import make_version


def guess(confidence: float, name: str = "a") -> Guess:
    return Guess(Entry(Path(name), name, "12"), confidence)


@given(st.lists(st.floats(0, 1)), st.floats(0, 1))
def test_the_surest_readings_are_kept_as_long_as_few_are_expected_to_be_wrong(confidences: list[float], most_wrong: float) -> None:
    kept = [kept.confidence for kept in surest([guess(c, str(i)) for i, c in enumerate(confidences)], most_wrong)]
    possible = sorted((c for c in confidences if c), reverse=True)
    assert kept == possible[: len(kept)]
    assert sum(1 - c for c in kept) <= most_wrong * len(kept) + 1e-9
    if len(kept) < len(possible):
        assert sum(1 - c for c in possible[: len(kept) + 1]) > most_wrong * (len(kept) + 1) - 1e-9


def test_readings_that_differ_between_views_are_never_kept() -> None:
    assert surest([guess(0.0)], 1.0) == []


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_moves_by_two_pixels_of_the_model(mode: str) -> None:
    spec = CaptchaSpec(width=50, height=20)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 100, len(mode)), np.uint8).squeeze()
    views = [np.asarray(Image.open(io.BytesIO(view))) for view in moved(Image.fromarray(pixels, mode), spec)]
    assert [view.shape for view in views] == [pixels.shape] * 5
    still, left, right, up, down = views
    np.testing.assert_array_equal(still, pixels)
    np.testing.assert_array_equal(left[:, :-4], pixels[:, 4:])
    np.testing.assert_array_equal(right[:, 4:], pixels[:, :-4])
    np.testing.assert_array_equal(up[:-4], pixels[4:])
    np.testing.assert_array_equal(down[4:], pixels[:-4])


@pytest.mark.slow
def test_the_readings_of_files_are_those_of_the_model(tmp_path: Path) -> None:
    config, version = make_version(tmp_path)
    entries = []
    for number, picture in enumerate([*PICTURES, b"no picture"]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture)
        entries.append(Entry(path, path.name, ""))
    model, result, seen = ServedModel(version), Imported(), list[int]()
    found = list(guesses(model, entries, config.data.picture_rules, result, lambda: seen.append(1)))
    plain = list(model.read(PICTURES))
    assert [guess.entry.label for guess in found] == [reading.text for reading in plain]
    assert all(guess.confidence <= reading.confidence + 1e-6 for guess, reading in zip(found, plain, strict=True))
    assert len(seen) == len(entries)
    assert result.left_out == {"image_undecodable": 1}
