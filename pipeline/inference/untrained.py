"""OCR readers that need no training: ddddocr and Tesseract, each if it is installed, and the preparation of pictures that helps them.

ddddocr (https://github.com/sml2h3/ddddocr) is a network for captchas; Tesseract (https://github.com/tesseract-ocr/tesseract) reads print.
"""

import io
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec

Reader: TypeAlias = Callable[[bytes], str]
"""Returns the text of an encoded picture."""

_SECONDS: Final = 30.0  # Tesseract reads such a picture in a fifth of a second


@dataclass(frozen=True)
class Preparation:
    """The changes to a picture before it is read, in this order.

    Attributes:
      median: whether a 3 x 3 median filter removes dots.
      margin: width of an added margin in pixels, in the colour of the picture's corner.
      scale: factor of the size.
      stretch: additional factor of the width. Readers that scan along the width, like ddddocr, merge or drop narrow characters.
    """

    median: bool = False
    margin: int = 0
    scale: int = 1
    stretch: float = 1.0

    def __call__(self, encoded: bytes) -> bytes:
        if self == Preparation():
            return encoded
        image = Image.open(io.BytesIO(encoded)).convert("L")
        if self.median:
            image = image.filter(ImageFilter.MedianFilter(3))
        image = ImageOps.expand(image, self.margin, fill=int(np.asarray(image)[0, 0]))
        size = (round(image.width * self.scale * self.stretch), image.height * self.scale)
        prepared = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(prepared, "PNG")
        return prepared.getvalue()

    def __str__(self) -> str:
        changed = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}
        return ", ".join(f"{name} {value}" for name, value in changed.items()).replace(" True", "") or "unchanged"


def allowed_characters(spec: CaptchaSpec) -> str:
    """Returns the charset, and the other case of its characters if case does not matter."""
    return spec.characters if spec.case_sensitive else "".join(dict.fromkeys(spec.characters + spec.characters.swapcase()))


def ddddocr_readers(spec: CaptchaSpec) -> Iterator[tuple[str, Reader]]:
    """Yields each model of ddddocr, the default model first: unrestricted, and with each way to restrict it to the charset.

    `set_ranges` drops characters outside the charset. Greedy CTC decoding (Graves et al., "Connectionist Temporal Classification",
    2006) of only the probabilities of the charset and the blank replaces them by the next best character.

    Raises:
      ImportError: ddddocr is not installed.
    """
    import ddddocr

    allowed = allowed_characters(spec)
    for beta in (False, True):
        model = "beta model" if beta else "default model"
        yield f"{model}, unrestricted", ddddocr.DdddOcr(show_ad=False, beta=beta).classification
        ranged = ddddocr.DdddOcr(show_ad=False, beta=beta)
        ranged.set_ranges(allowed)
        yield f"{model}, set_ranges", ranged.classification
        yield f"{model}, charset probabilities", _from_probabilities(ddddocr.DdddOcr(show_ad=False, beta=beta), allowed)


def _from_probabilities(engine: Any, allowed: str) -> Reader:
    classes = engine.get_charset()  # Class 0 is CTC's blank.
    ids = np.array([0, *(classes.index(character) for character in allowed if character in classes)])

    def read(encoded: bytes) -> str:
        probabilities = np.squeeze(np.array(engine.classification(encoded, probability=True)["probabilities"]))
        best = ids[probabilities[:, ids].argmax(axis=1)]
        return "".join(classes[i] for i, _ in itertools.groupby(best) if i)

    return read


def tesseract_readers(spec: CaptchaSpec) -> Iterator[tuple[str, Reader]]:
    """Yields Tesseract for one line of text (psm 7) and for one word (psm 8), restricted to the charset, with one process per picture.

    A reader raises CaptchaPipelineError if Tesseract fails, for example because it has no language data.

    Raises:
      FileNotFoundError: Tesseract is not installed.
    """
    if shutil.which("tesseract") is None:
        raise FileNotFoundError("tesseract")
    # The pictures show the charset's own case.
    for psm in ("7", "8"):
        yield f"psm {psm}, whitelist", _tesseract(["--psm", psm, "-c", f"tessedit_char_whitelist={spec.characters}"])


def _tesseract(options: Sequence[str]) -> Reader:
    # On pictures this small, the threads of Tesseract cost more than they gain.
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}

    def read(encoded: bytes) -> str:
        command = ["tesseract", "stdin", "stdout", *options]
        try:
            done = subprocess.run(command, input=encoded, capture_output=True, env=environment, timeout=_SECONDS)  # noqa: S603
        except subprocess.TimeoutExpired:
            return ""
        if done.returncode:
            words = done.stderr.decode(errors="replace").split("\n")[0].strip()
            raise CaptchaPipelineError(f"Tesseract failed with exit code {done.returncode}: {words[:200]}")
        return "".join(done.stdout.decode(errors="replace").split())

    return read


READERS: Final[Mapping[str, Callable[[CaptchaSpec], Iterator[tuple[str, Reader]]]]] = {
    "ddddocr": ddddocr_readers,
    "Tesseract": tesseract_readers,
}
# The settings that read most drawn captchas: benchmarks/results/readers.json.
BEST: Final = {"ddddocr": "default model, charset probabilities", "Tesseract": "psm 7, whitelist"}
