"""Shared parts of the commands: the console, the stop by Ctrl-C or SIGTERM, and a warning."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pipeline.config.config import Config

NOT_PUSHED: Final = 3  # exit code: the run is complete, but its model is not in production
STOPPED: Final = 130  # exit code that a shell reports for a program ended by Ctrl-C
console = Console()


@contextmanager
def stoppable(what_next: str) -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM end a command with exit code STOPPED and one line.

    SIGTERM needs a handler: without one, the kernel drops a SIGTERM to the first process of a container. The handler remembers the signal,
    because TensorFlow raises a TypeError if a callback is interrupted while it runs.

    Args:
      what_next: a sentence about the state that the stop leaves, printed after "Stopped."
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not (stopped or isinstance(error, KeyboardInterrupt)):
            raise
        console.print(f"Stopped. {what_next}", highlight=False, soft_wrap=True)
        raise typer.Exit(STOPPED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def warn_of_unservable_models(settings: "Config") -> None:
    """Prints a warning if the version in production cannot be used by model servers."""
    from components.serving.serving_dir import unservable_warning

    if found := unservable_warning(settings.serving_dir):
        console.print(f"[bold yellow]Not servable[/]: {escape(found)}", highlight=False, soft_wrap=True)
