"""Messages for the user about a disk that cannot be written: it is full, over quota or read-only, or this user lacks permission."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError

_AGAIN: Final = "Free some space there and run the same command again: completed work is kept."
_ELSEWHERE: Final = "Make it writable for this user, or choose another folder in the configuration."
_MESSAGES: Final = {
    errno.ENOSPC: f"The disk is full: {{}} cannot be written. {_AGAIN}",
    errno.EDQUOT: f"The disk quota is used up: {{}} cannot be written. {_AGAIN}",
    errno.EROFS: f"{{}} cannot be written: its file system is read-only. {_ELSEWHERE}",
    errno.EACCES: f"{{}} cannot be read or written: permission denied. {_ELSEWHERE}",
}
# Errors of Beam's workers, TensorFlow, shutil and SQLite carry only the text, not the error number.
_TEXTS: Final = {
    os.strerror(errno.ENOSPC): errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    os.strerror(errno.EDQUOT): errno.EDQUOT,
    os.strerror(errno.EROFS): errno.EROFS,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
}


@contextlib.contextmanager
def writing_in(*folders: str | Path) -> Iterator[None]:
    """Replaces the error of a disk that cannot be written by a message for the user, whichever library has wrapped the error.

    Args:
      folders: the folders that the block writes to, besides the temporary folder. If the error names no file, the message names the
        folder with the least free space.

    Raises:
      CaptchaPipelineError: the disk cannot be written. Other errors are raised unchanged.
    """
    try:
        yield
    except CaptchaPipelineError:
        raise
    except Exception as error:
        number, path = _refusal(error)
        if number is None:
            raise
        where = path or (_fullest(folders) if folders else "the output of this command")
        raise CaptchaPipelineError(_MESSAGES[number].format(where)) from error


def _refusal(error: BaseException) -> tuple[int | None, str | None]:
    """Returns the error number of the disk, None for any other error, and the path if it is known. Searches the whole exception chain."""
    chain = list(_chain(error))
    for link in chain:
        # HDF5 sets the number, but writes its own text.
        if isinstance(link, OSError) and link.errno in _MESSAGES:
            return link.errno, os.fsdecode(link.filename) if isinstance(link.filename, str | bytes) else None
    return next((number for link in chain for text, number in _TEXTS.items() if text in str(link)), None), None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fullest(folders: tuple[str | Path, ...]) -> Path:
    return min([*map(Path, folders), Path(tempfile.gettempdir())], key=lambda folder: shutil.disk_usage(_existing(folder.absolute())).free)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
