"""Other trainers on the same pictures: fast-plate-ocr's published one, and a CRNN with CTC. Each fits in a process of its own.

fast-plate-ocr has an environment of its own, which uv makes: its Keras is another than this project's.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.real_sets import Labelled
from components.data.captcha_spec import CaptchaSpec

FAST_PLATE_OCR: Final = "fast-plate-ocr"
CRNN: Final = "crnn"
_ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = ("fast-plate-ocr[train,onnx]==1.1.0", "tensorflow==2.21.0", "keras==3.15.1", "albumentations==2.0.8")
# What TensorFlow's C++ code says while it is loaded is of no use; a peer that fails says so by an exception.
_ENVIRONMENT: Final = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
_VALIDATE_EVERY: Final = 10  # a tenth of the pictures to train with decides when to stop


@dataclass(frozen=True)
class Fitted:
    """What came of a fit: its seconds, its passes over the pictures, and what its model reads on each picture of the test part."""

    seconds: float
    epochs: int
    readings: list[str]


class NotInstalled(Exception):
    """What a reader needs is not installed, and cannot be got."""


def interpreter(peer: str) -> list[str]:
    """Returns the words that start Python with what a peer needs.

    Raises:
      NotInstalled: there is no uv, or it cannot make the environment.
    """
    if peer == CRNN:
        return [sys.executable]
    uv = shutil.which("uv") or shutil.which("uv", path=_ROOT / ".tools" / "bin")
    if uv is None:
        raise NotInstalled("uv")
    packages = [word for package in _PACKAGES for word in ("--with", package)]
    words = [uv, "run", "--quiet", "--no-project", "--isolated", "--python", "3.11", *packages, "python"]
    # The first time, it gets the packages.
    if subprocess.run([*words, "-c", ""]).returncode:
        raise NotInstalled(peer)
    return words


def fit_and_read(peer: str, spec: CaptchaSpec, train: Sequence[Labelled], test: Sequence[Labelled], seconds: float, folder: Path) -> Fitted:
    """Trains a peer for at most so many seconds, and reads the test part with it.

    Args:
      peer: FAST_PLATE_OCR or CRNN.
      spec: how the pictures are read.
      train: every tenth of them is not trained on, but decides when to stop and which of the peer's weights are taken.
      test: of which the peer gets the pictures alone, without the labels.
      seconds: for the fit; what comes before it and after it does not count. The epoch under way may go on.
      folder: where the peer leaves its files; what is there is removed.

    Raises:
      NotInstalled: as `interpreter`.
      CalledProcessError: the peer failed.
    """
    python = interpreter(peer)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    labelled = [(str(picture.path.resolve()), spec.canonical(picture.label)) for picture in train]
    job = {
        "characters": spec.characters,
        "length": spec.max_length,
        "width": spec.width,
        "height": spec.height,
        "channels": spec.channels,
        "seconds": seconds,
        "train": [one for index, one in enumerate(labelled) if index % _VALIDATE_EVERY],
        "validation": labelled[::_VALIDATE_EVERY],
        "test": [str(picture.path.resolve()) for picture in test],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    # -I keeps the modules that lie beside the script from those of its own environment.
    script = ["-m", "benchmarks.crnn_fit"] if peer == CRNN else ["-I", str(Path(__file__).with_name("fast_plate_ocr_fit.py"))]
    subprocess.run([*python, *script, str(folder)], check=True, env=os.environ | _ENVIRONMENT)
    return Fitted(**json.loads((folder / "fitted.json").read_text(encoding="utf-8")))
