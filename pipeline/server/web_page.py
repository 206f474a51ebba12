"""The page of the server, which reads pictures in a browser: GET / and its files in page/, GET /about and POST /read."""

import asyncio
import contextlib
import dataclasses
import time
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from components.base.features import ATTENTION, CONFIDENCE, MAX_PIXELS, PROBABILITIES, TEXT, VALID, WRONG_SIZE
from components.data.captcha_spec import CaptchaSpec
from components.data.exif import JPEG_SIGNATURE, PNG_SIGNATURE
from components.data.pictures import PictureError, PictureRules, inspect_picture, upright_size
from components.data.placement import on_picture, place
from components.evaluation.metrics import read as read_classes
from pipeline.config.config import Config
from pipeline.server.messages import RequestError, json_response
from pipeline.server.page_files import SHARED, PageFiles
from pipeline.server.reading import server_of
from pipeline.server.versions import NoSuchVersion, Version

_ENOUGH_DIGITS: Final = 4  # of attention, which is only drawn


class WebPage:
    """The page for the newest version of a pipeline's model."""

    def __init__(self, config: Config):
        self._rules = config.data.picture_rules
        self._max_bytes = config.server.max_body_bytes
        self._files = PageFiles(SHARED)

    @property
    def routes(self) -> list[Route]:
        """The addresses of the page. Those within the page are relative, so that it also works behind a proxy that adds a prefix."""
        return [
            Route("/", self._files.page),
            Route("/page/{file}", self._files.page),
            Route("/about", self.about),
            Route("/read", self.read, methods=["POST"]),
        ]

    async def about(self, request: Request) -> Response:
        """GET /about: what the model reads, and the largest body of POST /read in bytes."""
        version, spec = _newest(request)
        # TensorFlow prepares a signature when it is first called, which takes seconds. The first picture need not wait for that.
        await server_of(request).read(version, _signature(version), [])
        return json_response(
            {
                "name": server_of(request).name,
                "version": version.number,
                "charset": spec.characters,
                "min_length": spec.min_length,
                "max_length": spec.max_length,
                "width": spec.width,
                "height": spec.height,
                "max_bytes": self._max_bytes,
            }
        )

    async def read(self, request: Request) -> Response:
        """POST /read: reads the picture that is the body, of a type image/….

        The answer has the text, its confidence, whether the picture is valid, what is wrong with it if it is not, the milliseconds that it
        took, and the version. Each of `characters` has its probability as `confidence`. `end` is the probability that no further character
        follows, null if the length is fixed. `attention` of a character has a number for each column of the picture, and `edges` the sides
        of these columns, from 0 to 1: see `on_picture` in components/data/placement.py. Both are empty for a model without attention.
        """
        # Browsers let pages of other sites send only the types of forms and plain text without asking.
        if not request.headers.get("content-type", "").startswith("image/"):
            raise RequestError(415, "The body must be a picture, with a content type such as image/png.")
        picture = await request.body()
        version, spec = _newest(request)  # after the body, which may take long: the version could be unloaded meanwhile
        start = time.perf_counter()
        answer = await server_of(request).read(version, _signature(version), [picture])
        milliseconds = 1000 * (time.perf_counter() - start)
        reading: dict[str, Any] = {
            "text": answer[TEXT][0].decode(),
            "confidence": answer[CONFIDENCE][0],
            "valid": bool(answer[VALID][0]),
            "milliseconds": round(milliseconds, 1),
            "version": version.number,
        }
        if reading["valid"]:
            found = _characters(picture, spec, answer)
        else:
            about = version.pushed.about
            most = about.get(MAX_PIXELS, self._rules.max_pixels)
            rules = dataclasses.replace(self._rules, wrong_size=about.get(WRONG_SIZE, "resize"), max_pixels=most)
            found = {"problem": await asyncio.to_thread(_problem, picture, spec, rules)}
        return json_response(reading | found)


def _newest(request: Request) -> tuple[Version, CaptchaSpec]:
    try:
        version = server_of(request).versions.find()
    except NoSuchVersion:
        raise RequestError(503, "No version of the model is loaded yet.") from None
    spec = version.pushed.spec
    assert spec is not None, "only such versions are loaded"
    return version, spec


def _signature(version: Version) -> str:
    return "explain" if "explain" in version.model.signatures else "serving_default"


def _characters(picture: bytes, spec: CaptchaSpec, answer: dict[str, np.ndarray]) -> dict[str, Any]:
    ids, confidences = read_classes(answer[PROBABILITIES][0], spec.min_length)
    length = len(ids) if spec.blank_id is None else int(np.sum(ids != spec.blank_id))
    edges, attention = np.empty(0), np.empty((length, 0))
    # Pillow refuses some damaged pictures that TensorFlow reads; they have no attention.
    with contextlib.suppress(PictureError):
        if ATTENTION in answer:
            edges, attention = on_picture(answer[ATTENTION][0], place(*upright_size(picture), spec), spec)
    return {
        "characters": [
            {
                "character": spec.characters[ids[position]],
                "confidence": confidences[position],
                "attention": attention[position].round(_ENOUGH_DIGITS),
            }
            for position in range(length)
        ],
        "end": None if spec.blank_id is None else np.prod(confidences[length:]),
        "edges": edges.round(_ENOUGH_DIGITS),
    }


def _problem(picture: bytes, spec: CaptchaSpec, rules: PictureRules) -> str:
    """Returns why the model cannot read a picture, as a sentence."""
    try:
        inspect_picture(picture, spec, rules)
    except PictureError as error:
        if error.reason == "image_undecodable":
            return "The file is broken, or it is neither a PNG nor a JPEG."
        if error.reason == "image_too_large":
            return f"The picture has more than {rules.max_pixels:,} pixels, which is the limit."
        message = str(error)
        return f"{message[0].upper()}{message[1:]}."
    if picture.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)):
        return "The file is damaged."
    return "The model reads only PNG and JPEG."
