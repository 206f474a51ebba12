"""Atomic writes of files and folders that survive a power failure; locks; and the check of paths for wildcards."""

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
    """Returns the wildcard characters in a path, each once, in their order.

    TFX and Beam treat the paths of their artifacts as patterns. They find no file under a path with a wildcard character.
    """
    return "".join(character for character in dict.fromkeys(str(path)) if character in _OF_PATTERNS)


def write_whole(path: Path, text: str) -> None:
    """Writes a UTF-8 text file that all users can read. An existing file is replaced atomically.

    A kill or a power failure leaves either the old or the new file. Missing folders are created. File names in the text may contain
    bytes that are not UTF-8; these are written escaped.

    Raises:
      CaptchaPipelineError: the disk is full, or the folder cannot be written.
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
    """Renames a folder to its final name after its whole content is on the disk. Readers find it complete or not at all.

    Args:
      folder: must be in the same file system as `target`.
      target: must not exist, or must be an empty folder.
    """
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    folder.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, remedy: str) -> Any:
    """Returns the content of a JSON file.

    Args:
      path: the file.
      remedy: a sentence for the error message that says what to do about a damaged file.

    Raises:
      FileNotFoundError: the file does not exist.
      CaptchaPipelineError: the file is not JSON, for example after a power failure: earlier releases did not sync files to the disk.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError is a ValueError
        raise CaptchaPipelineError(f"{path} is damaged: it is not valid JSON. {remedy}") from None


@contextlib.contextmanager
def locked(lock: Path, busy: str | None = None, waiting: str = "") -> Iterator[None]:
    """Locks a file while the block runs, and writes the ID of this process into the file.

    The kernel releases the lock when the process ends, even if the process is killed.

    Args:
      lock: the lock file. It is created with its folder if it is missing, and is not removed afterwards.
      busy: the error message if another process holds the lock, with {} for the ID of that process. None waits until the lock is free.
      waiting: the message on standard error before waiting, with {} as above; "" for no message.

    Raises:
      Busy: another process holds the lock, and `busy` is given.
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
