"""What commands share: the terminal, a stop by Ctrl-C or SIGTERM, and a warning."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pipeline.config.config import Config

NOT_PUSHED: Final = 3
STOPPED: Final = 130  # as a shell says of a program that Ctrl-C has ended
console = Console()


@contextmanager
def stoppable(what_next: str) -> Iterator[None]:
    """Has Ctrl-C and SIGTERM end a command with STOPPED and a word on what comes next.

    The kernel drops a SIGTERM for which a container's first process has no handler.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Stopped. {what_next}", highlight=False, soft_wrap=True)
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def warn_of_unservable_models(settings: "Config") -> None:
    from components.serving.serving_dir import unservable_warning

    if found := unservable_warning(settings.serving_dir):
        console.print(f"[bold yellow]Not servable[/]: {escape(found)}", highlight=False, soft_wrap=True)
