import io
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from pipeline.inference import untrained
from pipeline.inference.untrained import Preparation


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_preparation_enlarges_a_picture_and_an_empty_one_does_nothing() -> None:
    picture = encoded(Image.new("RGB", (100, 30), "white"))
    assert Preparation()(picture) is picture
    assert Image.open(io.BytesIO(Preparation(margin=5, scale=3, stretch=2.0)(picture))).size == (660, 120)
    assert str(Preparation()) == "unchanged"
    assert str(Preparation(median=True, margin=5)) == "median, margin 5"


def test_a_median_filter_removes_a_dot() -> None:
    image = Image.new("L", (20, 20), 255)
    image.putpixel((10, 10), 0)
    assert np.asarray(Image.open(io.BytesIO(Preparation(median=True)(encoded(image))))).min() == 255


def test_ddddocr_is_limited_to_the_charset() -> None:
    classes = ["", *"S5Z2"]
    steps = np.full((6, 1, len(classes)), 0.0)
    for step, (best, second) in enumerate(["S5", "S5", ("", "S"), "S5", "Z2", ("", "2")]):
        steps[step, 0, classes.index(best)], steps[step, 0, classes.index(second)] = 0.6, 0.4

    def classification(_: bytes, probability: bool) -> dict[str, Any]:
        assert probability
        return {"probabilities": steps.tolist()}

    engine = SimpleNamespace(get_charset=lambda: classes, classification=classification)
    assert untrained._from_probabilities(engine, string.digits)(b"") == "552"
    assert untrained._from_probabilities(engine, "SZ")(b"") == "SSZ"


def test_both_cases_are_allowed_if_case_does_not_matter() -> None:
    assert untrained.allowed_characters(CaptchaSpec(charset="AB1", case_sensitive=False)) == "AB1ab"
    assert untrained.allowed_characters(CaptchaSpec(charset="AB1")) == "AB1"


def test_a_missing_reader_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError):
        list(untrained.tesseract_readers(CaptchaSpec()))


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> untrained.Reader:
    """Returns the first reader of a program that is called tesseract, and that does what a shell script says."""
    (folder / "tesseract").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "tesseract").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return next(untrained.tesseract_readers(CaptchaSpec(charset="AB1")))[1]


def test_tesseract_gets_the_picture_and_the_charset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = program(tmp_path, 'cat; echo " $@"', monkeypatch)
    assert read(b"A 1\n") == "A1stdinstdout--psm7-ctessedit_char_whitelist=AB1"


def test_a_failure_of_tesseract_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = program(tmp_path, "cat >/dev/null; echo 'Failed loading language eng' >&2; exit 1", monkeypatch)
    with pytest.raises(CaptchaPipelineError, match="exit code 1: Failed loading language eng"):
        read(b"A")


def test_a_picture_on_which_tesseract_hangs_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrained, "_SECONDS", 0.2)
    assert program(tmp_path, "exec sleep 60", monkeypatch)(b"A") == ""
