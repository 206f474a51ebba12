"""Files that are there whole or not at all, and files that are locks."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.disk import writing_in
from components.errors import CaptchaPipelineError


def write_whole(path: Path, text: str) -> None:
    """Writes a file readable by all, in UTF-8, in place of one that may be there: a kill leaves the old one or the new one.

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
                half.replace(path)
            except OSError:
                half.unlink()
                raise


@contextlib.contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Holds a lock file, in which this process leaves its number. The kernel lets go of it when the process ends, however it ends.

    Args:
      lock: the file; made if it is not there, with its folder.
      busy: what to say if another process holds it, with {} for that one's number.

    Raises:
      CaptchaPipelineError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CaptchaPipelineError(busy.replace("{}", file.read().strip() or "unknown")) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
