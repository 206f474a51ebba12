"""What a disk refuses, in words for the person at the keyboard: it is full, over quota, read-only, or not this user's to write."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError

_AGAIN: Final = "Make room there and give the same command again: what was complete is kept."
_ELSEWHERE: Final = "Let this user write there, or choose another folder in the configuration."
_MESSAGES: Final = {
    errno.ENOSPC: f"The disk is full: {{}} takes no more. {_AGAIN}",
    errno.EDQUOT: f"The disk quota is used up: {{}} takes no more. {_AGAIN}",
    errno.EROFS: f"{{}} cannot be written: its file system is read-only. {_ELSEWHERE}",
    errno.EACCES: f"{{}} cannot be read or written: permission denied. {_ELSEWHERE}",
}
# Beam's workers, TensorFlow, shutil and SQLite pass on no number, only the text.
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
    """Says what to do where an error comes of a disk that refuses to be written, whatever library has wrapped it.

    Args:
      folders: where the block writes, besides the temporary folder. If the error names no file, the one with the least room is named.

    Raises:
      CaptchaPipelineError: instead of such an error.
    """
    try:
        yield
    except CaptchaPipelineError:
        raise
    except Exception as error:
        number, path = _refusal(error)
        if number is None:
            raise
        where = path or (_fullest(folders) if folders else "what this command writes to")
        raise CaptchaPipelineError(_MESSAGES[number].format(where)) from error


def _refusal(error: BaseException) -> tuple[int | None, str | None]:
    """Returns why a disk refused, and the path where that is known; the error may be anywhere in a chain of them."""
    chain = list(_chain(error))
    for link in chain:
        # HDF5 gives the number, and a text of its own.
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
