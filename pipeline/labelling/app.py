"""The web application of `captcha-pipeline label`: the page, and the endpoints that the page calls."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import LabelError
from components.data.pictures import PictureError, visible_picture
from components.data.sources.outcome import Imported
from components.evaluation.metrics import Rate, wilson_interval
from pipeline.config.config import Config
from pipeline.config.server import ServerConfig
from pipeline.labelling.decisions import Outdated
from pipeline.labelling.growth import outlook
from pipeline.labelling.journal import Kind
from pipeline.labelling.models import Models
from pipeline.labelling.retraining import Retraining, labelling_config
from pipeline.labelling.session import Session
from pipeline.server.limits import BodyLimits
from pipeline.server.messages import RequestError, json_response, parse_object
from pipeline.server.page_files import HEADERS, SHARED, PageFiles

HOST: Final = "127.0.0.1"
LIMITS: Final = ServerConfig(max_body_mib=0.0625, max_bodies_mib=4)
_HOSTS: Final = (HOST, "localhost")  # a request to any other host name is refused: the name may belong to another site (DNS rebinding)
_LONGEST_TEXT: Final = 256  # characters
_LONGEST_WINDOW: Final = 64  # characters
_JSON: Final = "application/json"
_GONE: Final = "Another window has decided about this picture in the meantime."


@dataclass(frozen=True)
class Goal:
    """What the person wants.

    Attributes:
      accuracy: the full-sequence accuracy to reach, 0 to 1.
      retrain_every: the number of new labels after which a new model is trained.
    """

    accuracy: float
    retrain_every: int


class LabelApp:
    """The endpoints of the page. The body of each POST request is a JSON object with `window`, the random name of a browser window.

    Attributes:
      retraining: trains models while the application runs.
    """

    def __init__(self, config: Config, session: Session, goal: Goal):
        """Loads nothing yet; the models are loaded when the application starts.

        Args:
          config: of the pipeline.
          session: the state of the labelling.
          goal: what the person wants to reach.
        """
        self._config = config
        self._session = session
        self._goal = goal
        self._rules = config.data.picture_rules
        self._models = Models(config, Path(labelling_config(config).serving_dir), session)
        self.retraining = Retraining(config, session, goal.retrain_every, self._models.versions.refresh)

    def starlette(self) -> Starlette:
        """Returns the application."""
        files = PageFiles(Path(__file__).with_name("page"), SHARED)
        app = Starlette(
            routes=[
                Route("/", files.page),
                Route("/page/{file}", files.page),
                Route("/picture/{key}", self.picture),
                Route("/next", self.next, methods=["POST"]),
                Route("/show", self.show, methods=["POST"]),
                Route("/draft", self.draft, methods=["POST"]),
                Route("/decide", self.decide, methods=["POST"]),
                Route("/state", self.state, methods=["POST"]),
                Route("/leave", self.leave, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(_HOSTS)), Middleware(BodyLimits, settings=LIMITS)],
            exception_handlers={RequestError: _refused, HTTPException: _not_found, CaptchaPipelineError: _failed, Exception: _broken},
            lifespan=self._running,
        )
        app.router.redirect_slashes = False
        return app

    @contextlib.asynccontextmanager
    async def _running(self, app: Starlette) -> AsyncIterator[None]:
        await self._models.versions.refresh()
        tasks = [asyncio.create_task(task) for task in (self._models.run(), self.retraining.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._models.close()

    async def picture(self, request: Request) -> Response:
        """GET /picture/KEY: returns the pixels that the model sees as a PNG, whatever the format of the file."""
        number = self._number(request.path_params["key"])
        content = await asyncio.to_thread(self._visible, number)
        # Only this page may show the picture, no page of another site.
        headers = HEADERS | {"Cross-Origin-Resource-Policy": "same-origin"}
        return Response(content, headers=headers, media_type="image/png")

    def _visible(self, number: int) -> bytes:
        data = self._session.catalogue.read(number, Imported())
        try:
            picture = visible_picture(data or b"", self._rules)
        except PictureError:
            raise RequestError(404, f"{self._session.catalogue.entries[number].name} cannot be read any more.") from None
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()

    async def next(self, request: Request) -> Response:
        """POST /next: returns the picture that the window shows next, null if no picture is left, and the state."""
        return await self._answer(self._session.next(self._window(await self._body(request))))

    async def show(self, request: Request) -> Response:
        """POST /show: returns the picture `key`, which the window has shown before, and the state."""
        return await self._answer(self._number((await self._body(request)).get("key")))

    async def draft(self, request: Request) -> Response:
        """POST /draft: stores the `text` that is being typed for the picture `key`."""
        body = await self._body(request)
        number = self._number(body.get("key"))
        self._session.touch(self._window(body), number)
        self._session.type(number, _text(body))
        return json_response({})

    async def decide(self, request: Request) -> Response:
        """POST /decide: stores a decision about the picture `key`: its `kind` and its `text`.

        `seen` is the id of the earlier decision that the window shows, 0 if it shows none. Returns the `id` of the new decision. The status
        is 422 if the configuration refuses the label, and 409 if another window has decided in the meantime.
        """
        body = await self._body(request)
        number, window = self._number(body.get("key")), self._window(body)
        kind, seen = body.get("kind"), body.get("seen")
        if kind not in [known.value for known in Kind] or not isinstance(seen, int):
            raise RequestError(400, "`kind` must be label, skip or unreadable, and `seen` a number.")
        try:
            decision = self._session.decide(window, number, seen, Kind(kind), _text(body))
        except LabelError as error:
            raise RequestError(422, f"{str(error)[0].upper()}{str(error)[1:]}.") from None
        except Outdated:
            raise RequestError(409, _GONE) from None
        return json_response({"id": decision.id})

    async def state(self, request: Request) -> Response:
        """POST /state: returns the state of the labelling. A window calls it regularly with the `key` of its picture, or null."""
        body = await self._body(request)
        self._session.touch(self._window(body), None if body.get("key") is None else self._number(body["key"]))
        return json_response(self._state())

    async def leave(self, request: Request) -> Response:
        """POST /leave: notes that the window is being closed."""
        self._session.leave(self._window(await self._body(request)))
        return json_response({})

    async def _body(self, request: Request) -> dict[str, Any]:
        # Without permission, a browser lets a page of another site send only the content types of forms and plain text.
        if request.headers.get("content-type") != _JSON:
            raise RequestError(415, f"The body must be {_JSON}.")
        if request.headers.get("origin", f"http://{request.headers['host']}") != f"http://{request.headers['host']}":
            raise RequestError(403, "The request comes from another site.")
        return parse_object(await request.body())

    def _window(self, body: dict[str, Any]) -> str:
        window = body.get("window")
        if not isinstance(window, str) or not 0 < len(window) <= _LONGEST_WINDOW:
            raise RequestError(400, f"`window` must be a text of 1 to {_LONGEST_WINDOW} characters.")
        return window

    def _number(self, key: Any) -> int:
        with contextlib.suppress(ValueError, TypeError):
            if (number := self._session.number(bytes.fromhex(key))) is not None:
                return number
        raise RequestError(404, "The folder has no such picture.")

    async def _answer(self, number: int | None) -> Response:
        if number is not None:
            await self._models.read([number])
        return json_response({"picture": None if number is None else self._shown(number), "state": self._state()})

    def _shown(self, number: int) -> dict[str, Any]:
        session, readings = self._session, self._session.readings
        decision, draft, label = session.decisions.newest(number), session.draft(number), session.decisions.label(number)
        version = int(readings.versions[number])
        reading = {"text": readings.texts[number], "confidence": float(readings.confidences[number])} if version else None
        return {
            "key": session.catalogue.keys[number].hex(),
            "name": session.catalogue.entries[number].name,
            "text": next((text for text in (draft, label, reading and reading["text"]) if text is not None), ""),
            "is_draft": draft is not None,
            "decision": decision.kind.value if decision else None,
            "seen": decision.id if decision else 0,
            "reading": reading,
        }

    def _state(self) -> dict[str, Any]:
        session, models, catalogue = self._session, self._models, self._session.catalogue
        confidence = self._config.evaluator.confidence
        points, (right, count), counts = session.points(), session.since(), session.decisions.counts()
        return {
            "name": self._config.name,
            "folder": str(catalogue.folder),
            "counts": counts,
            "total": len(catalogue),
            "copies": catalogue.copies,
            "broken": catalogue.broken,
            "broken_files": catalogue.left_out.describe(),
            "corrections": len(session.decisions.corrections()),
            "goal": self._goal.accuracy,
            "points": [asdict(point) | _rate(point.rate(confidence)) for point in points if point.count],
            "since": {"right": right, "count": count} | _rate(wilson_interval(right, count, confidence)) if count else None,
            "outlook": outlook(points, self._goal.accuracy, confidence, self.retraining.labels, counts["left"] + counts["skipped"]),
            "version": session.model.version if session.model else None,
            "reading": {"done": models.done, "total": models.total},
            "problem": models.problem,
            "training": asdict(self.retraining.status),
        }


def _rate(rate: Rate) -> dict[str, float]:
    return asdict(rate)


def _text(body: dict[str, Any]) -> str:
    text = body.get("text")
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise RequestError(400, f"`text` must be a text of at most {_LONGEST_TEXT} characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(400, "`text` is not Unicode text.") from None
    return text


async def _refused(request: Request, error: Any) -> Response:
    return error.response()


async def _not_found(request: Request, error: Any) -> Response:
    return json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Any) -> Response:
    return json_response({"error": str(error)}, 507)  # the disk is full or cannot be written


async def _broken(request: Request, error: Any) -> Response:
    # uvicorn logs the error with its traceback.
    return json_response({"error": "The program failed; its terminal says why."}, 500)
