"""Files and folders that are there whole or not at all, even after a power failure; locks; and paths that are no patterns."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from components.base.disk import writing_in
from components.base.errors import Busy, CaptchaPipelineError

_OF_PATTERNS: Final = "*?[\\"


def pattern_characters(path: str | Path) -> str:
    """Returns the characters in a path, in their order, that stand for others where a path is a pattern.

    TFX and Beam take the paths of their artifacts for patterns, and find nothing under one with such a character.
    """
    return "".join(character for character in dict.fromkeys(str(path)) if character in _OF_PATTERNS)


def write_whole(path: Path, text: str) -> None:
    """Writes a file readable by all, in UTF-8, in place of one that may be there: a kill or a power failure leaves the old or the new one.

    Folders are made. File names in a text may hold bytes that are no UTF-8: they are written escaped.

    Raises:
      CaptchaPipelineError: the disk is full, or the folder may not be written.
    """
    with writing_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8", errors="backslashreplace") as file:
            half = Path(file.name)
            try:
                file.write(text)
                file.flush()
                half.chmod(0o644)
                sync(half)
                half.replace(path)
                sync(path.parent)
            except OSError:
                half.unlink(missing_ok=True)
                raise


def publish(folder: Path, target: Path) -> None:
    """Renames a folder to a name that readers look for, once all that it holds is on the disk: they find it whole or not at all.

    Args:
      folder: in the same file system as `target`.
      target: must not exist, or be an empty folder.
    """
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    folder.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, remedy: str) -> Any:
    """Returns what a JSON file holds.

    Args:
      path: of the file.
      remedy: what to do about a file that cannot be read, as a sentence; part of the message.

    Raises:
      FileNotFoundError: there is no such file.
      CaptchaPipelineError: the file is not JSON, as after a power failure that an earlier release did not survive.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError is one
        raise CaptchaPipelineError(f"{path} is damaged: it is not JSON. {remedy}") from None


@contextlib.contextmanager
def locked(lock: Path, busy: str | None = None, waiting: str = "") -> Iterator[None]:
    """Holds a lock file, which holds the number of this process. The kernel releases it when the process ends, however it ends.

    Args:
      lock: the file; created with its folder if it is missing, and left in place.
      busy: the message if another process holds the lock, with {} for its number. None waits until the lock is free.
      waiting: what is said on standard error before it waits, likewise; "" to say nothing.

    Raises:
      Busy: another process holds it, and `busy` is given.
      OSError: the file cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(lock)
    try:
        file.acquire(timeout=0)
    except Timeout:
        holder = lock.read_text(encoding="utf-8").strip() or "unknown"
        if busy is not None:
            raise Busy(busy.replace("{}", holder)) from None
        if waiting:
            print(waiting.replace("{}", holder), file=sys.stderr, flush=True)
        file.acquire()
    try:
        lock.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        file.release()
