"""Serves the labelling page, and trains models, until the person stops the command."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from components.data.sources.corrections import Corrected, NothingCorrected
from components.data.sources.outcome import Imported
from pipeline.config.config import Config
from pipeline.labelling.app import HOST, LIMITS, Goal, LabelApp
from pipeline.labelling.labels import correct_spans, in_spans
from pipeline.labelling.opening import folder_of
from pipeline.labelling.retraining import take_over_production
from pipeline.labelling.session import Session
from pipeline.server.run import listen, uvicorn_config


@dataclass
class Ended:
    """The result of a session of labelling.

    Attributes:
      counts: the numbers of pictures, as from `Decisions.counts`.
      imports: the result of each span that was written.
      corrected: the result of the span with labels that were changed after their own span was written; None if there is no such span.
      problem: why there is no such span although labels were changed; "" otherwise.
    """

    counts: dict[str, int]
    imports: list[Imported]
    corrected: Corrected | None
    problem: str = ""


def listener(port: int) -> socket.socket:
    """Returns a socket that listens on this machine's loopback address.

    Args:
      port: TCP port, 0 for any free one.

    Raises:
      CaptchaPipelineError: the port is in use.
    """
    bound = listen(LIMITS.model_copy(update={"host": HOST, "port": port}), "another port with --port")
    bound.set_inheritable(False)  # if this process is killed, a training that goes on must not keep the port
    bound.listen()  # a browser that opens the address too early waits instead of showing an error
    return bound


def run(config: Config, labelling: Session, goal: Goal, socket_: socket.socket) -> Ended:
    """Serves the page until SIGINT or SIGTERM. Then stops a training in progress, and writes the remaining labels and corrections to spans.

    Args:
      config: of the pipeline.
      labelling: from `opened`.
      goal: what the person wants to reach.
      socket_: from `listener`.

    Raises:
      CaptchaPipelineError: a serving folder is damaged, or a span could not be written.
    """
    take_over_production(config)
    app = LabelApp(config, labelling, goal)
    with _until_stopped():
        uvicorn.Server(uvicorn_config(app.starlette(), LIMITS)).run([socket_])
    app.retraining.finish()
    corrected, problem = None, ""
    if corrections := labelling.decisions.corrections():
        try:
            corrected = correct_spans(config, corrections, folder_of(config) / "corrections.csv")
        except NothingCorrected as error:
            problem = str(error)
    labelling.decisions.written(in_spans(config, labelling.catalogue))
    return Ended(labelling.decisions.counts(), app.retraining.imports, corrected, problem)


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Lets SIGINT and SIGTERM end the server only, not the command, which still has labels to write.

    uvicorn raises the signal again once it has ended. The handlers of the command (`stoppable`) must not see this signal: they would take
    an error of the writing for a consequence of the stop, and hide it.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
