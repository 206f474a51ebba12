"""Runs the labelling of a folder until it is ended: the page and the training."""

import contextlib
import socket
from dataclasses import dataclass

import uvicorn

from components.data.sources.corrections import Corrected
from components.data.sources.outcome import Imported
from pipeline.config.config import Config
from pipeline.labelling.app import HOST, LIMITS, Goal, LabelApp
from pipeline.labelling.labels import correct_spans
from pipeline.labelling.opening import folder_of
from pipeline.labelling.retraining import take_over_production
from pipeline.labelling.session import Session
from pipeline.server.run import listen, uvicorn_config


@dataclass
class Ended:
    """What a labelling has left.

    Attributes:
      counts: see `Session.counts`.
      imports: the results of the spans that were written.
      corrected: the result of the span that corrects labels which were changed after their span was written; None if there are none.
    """

    counts: dict[str, int]
    imports: list[Imported]
    corrected: Corrected | None


def listener(port: int) -> socket.socket:
    """Returns a socket on this machine's own address. Raises CaptchaPipelineError if the port is in use."""
    bound = listen(LIMITS.model_copy(update={"host": HOST, "port": port}), "another port with --port")
    bound.set_inheritable(False)  # a training that goes on after a kill must not hold the port
    bound.listen()  # the address may be opened before the page answers
    return bound


def run(config: Config, labelling: Session, goal: Goal, socket_: socket.socket) -> Ended:
    """Serves the page until SIGINT or SIGTERM. Then stops a training that is in progress, and writes the last labels to a span.

    Args:
      config: of the pipeline.
      labelling: from `opened`.
      goal: of the person.
      socket_: from `listener`.

    Raises:
      CaptchaPipelineError: the last span could not be written.
    """
    take_over_production(config)
    app = LabelApp(config, labelling, goal)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has ended
        uvicorn.Server(uvicorn_config(app.starlette(), LIMITS)).run([socket_])
    app.retraining.finish()
    corrections = labelling.corrections()
    corrected = correct_spans(config, corrections, folder_of(config) / "corrections.csv") if corrections else None
    return Ended(labelling.counts(), app.retraining.imports, corrected)
