"""The format "html": one page that reads pictures in a browser, without a network. The model and all code are in the page.

The page is made from the files in `page/`. It is written only if a browser is installed in which its proof can run.
"""

import base64
import functools
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
import numpy as np
import numpy.typing as npt

from captcha_read.manifest import load_manifest
from captcha_read.model import Reading
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CHARSETS, CaptchaSpec
from pipeline.exporting.subject import PictureReader, Subject

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from pipeline.exporting.program import Program

MAX_BYTES: Final = 3_000_000
_SCRIPTS: Final = ("picture.js", "png.js", "network.js", "winograd.js", "reading.js", "page.js")
_RULES: Final = ("width", "height", "channels", "fit", "wrong_size", "max_pixels", "background")
# Reads pictures one after the other with the functions of the page.
_READ: Final = """async (pictures) => {
  const answers = [];
  for (const picture of pictures) {
    const bytes = Uint8Array.from(atob(picture), (character) => character.charCodeAt(0));
    try {
      const { characters, confidence, probabilities } = await read(bytes);
      const classes = probabilities.length / MODEL.text.max_length;
      const rows = Array.from({ length: MODEL.text.max_length }, (_, i) => [...probabilities.subarray(i * classes, (i + 1) * classes)]);
      const text = characters.map((character) => character.text).join("");
      answers.push({ text, confidence, position_confidence: characters.map((it) => it.confidence), probabilities: rows, error: "" });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      answers.push({ text: "", confidence: 0, position_confidence: [], probabilities: [], error: error.message });
    }
  }
  return answers;
}"""
_TEXT: Final = ("characters", "min_length", "max_length")


def write(subject: Subject, path: Path) -> None:
    """Writes the page.

    Raises:
      CaptchaPipelineError: no browser is installed, or the model is too large for a page.
    """
    from pipeline.exporting.browser import executable
    from pipeline.exporting.onnx_graph import onnx_graph
    from pipeline.exporting.program import program

    executable()
    page = render(program(onnx_graph(subject.model, subject.mean, subject.std)), load_manifest(path.parent).content, subject)
    if len(page) > MAX_BYTES:
        raise CaptchaPipelineError(
            f"The page would have {len(page) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g} MB: the model is too large for a page. Export it "
            "to another format, or train the preset vgg-slim."
        )
    path.write_bytes(page)


def render(steps: "Program", manifest: Mapping[str, Any], subject: Subject) -> bytes:
    """Returns the page of a program, as UTF-8."""
    folder = jinja2.PackageLoader("pipeline.exporting", "page")
    environment = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["hashed"] = hashed
    style, *scripts = (folder.get_source(environment, name)[0] for name in ("page.css", *_SCRIPTS))
    # By bytes: the first ones of all numbers, then the second ones, …, which pack to nine tenths.
    planes = steps.weights.astype("<f4").view(np.uint8).reshape(-1, 4).T.tobytes()
    return (
        environment.get_template("page.html.j2")
        .render(
            name=subject.name,
            kind=_kind(subject.spec),
            facts=[
                ("Version", manifest["version"]),
                ("Pictures", f"{subject.spec.width} × {subject.spec.height} pixels, {'colour' if subject.spec.channels == 3 else 'grey'}"),
                ("Made by", manifest["made_by"]),
            ],
            style=style,
            script="".join(scripts),
            model={
                "picture": {key: manifest["picture"][key] for key in _RULES},
                "text": {key: manifest["text"][key] for key in _TEXT},
                "program": steps.content,
                "weights": {"count": steps.weights.size, "data": base64.b64encode(zlib.compress(planes, 9)).decode()},
            },
        )
        .encode()
    )


def hashed(content: str) -> str:
    """Returns the SHA-256 by which a content security policy allows this style or script (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _kind(spec: CaptchaSpec) -> str:
    names = {"digits": "digits", "upper": "capitals", "lower": "small letters", "alnum": "digits and capitals"}
    what = next(
        (names[name] for name, characters in CHARSETS.items() if characters == spec.characters), f"characters of “{spec.characters}”"
    )
    length = str(spec.max_length) if spec.min_length == spec.max_length else f"{spec.min_length} to {spec.max_length}"
    return f"texts of {length} {what}"


@contextmanager
def reader(path: Path) -> Iterator[PictureReader]:
    """Opens the page in a browser; gives a function that reads encoded pictures with it.

    Raises:
      CaptchaPipelineError: no browser is installed, it does not start, or the page fails or wants to load something.
    """
    from pipeline.exporting.browser import opened

    with opened(path) as page:
        yield functools.partial(read_with, page)


def read_with(page: "Page", pictures: Sequence[bytes]) -> list[tuple[Reading, npt.NDArray[np.float32]]]:
    """Reads encoded pictures with an open page: see PictureReader."""
    answers = page.evaluate(_READ, [base64.b64encode(picture).decode() for picture in pictures])
    return [
        (
            Reading(answer["text"], answer["confidence"], tuple(answer["position_confidence"]), answer["error"]),
            np.array(answer["probabilities"], np.float32),
        )
        for answer in answers
    ]
