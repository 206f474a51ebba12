"""Runs the labelling of a folder until it is ended: the folder, the spans, the page and the training."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn

from components.base.disk import writing_in
from components.base.files import locked
from components.data.sources.index import Progress
from components.data.sources.sift import Imported
from pipeline.config.config import Config
from pipeline.labelling.app import HOST, LIMITS, Goal, LabelApp
from pipeline.labelling.catalogue import scan
from pipeline.labelling.journal import Journal
from pipeline.labelling.labels import labels_in_spans
from pipeline.labelling.leases import Leases
from pipeline.labelling.retraining import folder_of, take_over_production
from pipeline.labelling.session import Correction, Session
from pipeline.server.limits import limited_to
from pipeline.server.run import listen

_BUSY: Final = "Another labelling of this pipeline (process {}) is at work. Open a second window of its page, or stop it first."


@dataclass
class Ended:
    """What a labelling has left.

    Attributes:
      counts: see `Session.counts`.
      imports: the results of the spans that were written.
      corrections: labels that were changed after their span was written.
    """

    counts: dict[str, int]
    imports: list[Imported]
    corrections: list[Correction]


@contextlib.contextmanager
def session(config: Config, folder: Path, progress: Progress | None = None) -> Iterator[Session]:
    """Opens the labelling of a folder. Only one process at a time works on the labelling of a pipeline.

    Args:
      config: of the pipeline.
      folder: of the pictures.
      progress: called while the pictures and the spans are read.

    Raises:
      CaptchaPipelineError: the folder has no usable picture, another process labels, or a file is damaged or cannot be written.
    """
    home = folder_of(config)
    with writing_in(home), locked(home / "lock", _BUSY):
        catalogue = scan(folder, config.captcha, config.data.picture_rules, progress)
        places = labels_in_spans(config, catalogue, progress)
        with contextlib.closing(Journal(home / "journal.sqlite")) as journal:
            yield Session(config, catalogue, journal, places, Leases())


def listener(port: int) -> socket.socket:
    """Returns a socket on this machine's own address. Raises CaptchaPipelineError if the port is in use."""
    return listen(LIMITS.model_copy(update={"host": HOST, "port": port}), "another port with --port")


def run(config: Config, labelling: Session, goal: Goal, socket_: socket.socket) -> Ended:
    """Serves the page until SIGINT or SIGTERM. Then stops a training that is in progress, and writes the last labels to a span.

    Args:
      config: of the pipeline.
      labelling: from `session`.
      goal: of the person.
      socket_: from `listener`.

    Raises:
      CaptchaPipelineError: the last span could not be written.
    """
    take_over_production(config)
    app = LabelApp(config, labelling, goal)
    settings = uvicorn.Config(
        app.starlette(),
        http=limited_to(LIMITS.body_seconds, LIMITS.connections),  # type: ignore[arg-type]  # it calls whatever makes a protocol
        ws="none",
        lifespan="on",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LIMITS.drain_seconds,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has ended
        uvicorn.Server(settings).run([socket_])
    app.retraining.finish()
    return Ended(labelling.counts(), app.retraining.imports, labelling.corrections())

