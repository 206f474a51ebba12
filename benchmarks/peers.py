"""Other trainers on the same pictures: the published trainer of fast-plate-ocr, and a CRNN with CTC. Each fit has its own process.

fast-plate-ocr runs in its own environment, which uv creates, because its Keras version differs from this project's.
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
# Hides the messages of TensorFlow's C++ code at import. A peer that fails raises an exception.
_ENVIRONMENT: Final = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
_VALIDATE_EVERY: Final = 10  # one tenth of the training pictures decides when to stop


@dataclass(frozen=True)
class Fitted:
    """The result of a fit: its seconds, its passes over the pictures, and the text that its model reads on each test picture."""

    seconds: float
    epochs: int
    readings: list[str]


class NotInstalled(Exception):
    """A package or program that a reader needs is not installed and cannot be installed."""


def interpreter(peer: str) -> list[str]:
    """Returns the command that starts Python with the packages of a peer.

    Raises:
      NotInstalled: uv is missing, or it cannot create the environment.
    """
    if peer == CRNN:
        return [sys.executable]
    uv = shutil.which("uv") or shutil.which("uv", path=_ROOT / ".tools" / "bin")
    if uv is None:
        raise NotInstalled("uv")
    packages = [word for package in _PACKAGES for word in ("--with", package)]
    words = [uv, "run", "--quiet", "--no-project", "--isolated", "--python", "3.11", *packages, "python"]
    # The first call downloads the packages.
    if subprocess.run([*words, "-c", ""]).returncode:
        raise NotInstalled(peer)
    return words


def fit_and_read(peer: str, spec: CaptchaSpec, train: Sequence[Labelled], test: Sequence[Labelled], seconds: float, folder: Path) -> Fitted:
    """Trains a peer within a time limit, and reads the test part with it.

    Args:
      peer: FAST_PLATE_OCR or CRNN.
      spec: charset, length, size and channels of the pictures.
      train: every tenth picture is held out. It decides when to stop and which of the peer's weights are used.
      test: the peer gets these pictures without their labels.
      seconds: time limit of the fit alone, without the work before and after it. The running epoch may be completed.
      folder: for the files of the peer. Existing files are removed.

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
    # -I keeps the modules in the folder of the script from hiding those of its environment.
    script = ["-m", "benchmarks.crnn_fit"] if peer == CRNN else ["-I", str(Path(__file__).with_name("fast_plate_ocr_fit.py"))]
    subprocess.run([*python, *script, str(folder)], check=True, env=os.environ | _ENVIRONMENT)
    return Fitted(**json.loads((folder / "fitted.json").read_text(encoding="utf-8")))
