"""Stores a share of the pictures that a server reads, named by their readings: `data ingest` can read the folder."""

import hashlib
import random
import re
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError
from components.data.exif import PNG_SIGNATURE
from pipeline.config.server import PredictionLogConfig
from pipeline.server.observations import Observation

PATTERN: Final = "{label}_*"  # of the file names, for `data ingest --pattern`

_SCAN_AFTER: Final = 1000  # pictures, because other workers write to the folder too
_KEPT: Final = 0.9  # of the size limit, so that not every picture makes the log look for old ones
_NAME_BYTES: Final = 255  # the limit of Linux
# The names that this module gives. Files with other names are not the log's to remove.
_NAME: Final = re.compile(r".+_[01]\.\d{3}_\d+_[0-9a-f]{16}\.(png|jpg)", re.DOTALL)
# A text with one of these cannot be the beginning of a file name that PATTERN finds again.
_UNFIT: Final = frozenset("/_\0")


class PredictionLog:
    """The log of one worker. Several can share a folder.

    A file is named TEXT_CONFIDENCE_VERSION_DIGEST.png, or .jpg, for example 4711_0.998_1795906067_9f86d081884c7d65.png. The same picture is
    stored once for each version that reads it. Texts that cannot be part of such a name are not stored. The labels are what the model read:
    look through them before a model learns from them.
    """

    def __init__(self, settings: PredictionLogConfig, folder: Path):
        """Creates the folder.

        Raises:
          CaptchaPipelineError: the folder cannot be written.
        """
        self._folder = folder
        self._share = settings.share
        self._limit = settings.max_bytes
        self._random = random.Random()  # noqa: S311, it only draws a sample
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_oldest()
        except OSError as error:
            raise CaptchaPipelineError(
                f"Cannot write the log of readings: {error}. Give server.log.folder a folder that you own."
            ) from None

    def watch(self, observation: Observation) -> None:
        """Stores a picture if it is drawn. See `pipeline.server.observations.Observations`.

        Raises:
          OSError: the picture cannot be written.
        """
        if self._random.random() >= self._share:
            return
        name = _name(observation)
        if name is None:
            return
        target = self._folder / name
        if target.exists():
            return
        half = self._folder / f".{name}"
        try:
            half.write_bytes(observation.picture)
            half.replace(target)  # `data ingest` finds whole files only
        except OSError:
            half.unlink(missing_ok=True)
            raise
        self._size += len(observation.picture)
        self._unscanned += 1
        if self._size > self._limit or self._unscanned >= _SCAN_AFTER:
            self._remove_oldest()

    def close(self) -> None:
        """Nothing waits."""

    def _remove_oldest(self) -> None:
        files = []
        for path in [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]:
            try:
                found = path.stat()
            except FileNotFoundError:  # another worker has removed it
                continue
            files.append((found.st_mtime, found.st_size, path))
        size = sum(size for _, size, _ in files)
        if size > self._limit:
            for _, bytes_of_file, path in sorted(files):
                if size <= self._limit * _KEPT:
                    break
                path.unlink(missing_ok=True)
                size -= bytes_of_file
        self._size, self._unscanned = size, 0


def _name(observation: Observation) -> str | None:
    """Returns the name of the file; None if the text cannot be part of one."""
    text = observation.text
    digest = hashlib.sha256(observation.picture).hexdigest()[:16]
    suffix = "png" if observation.picture.startswith(PNG_SIGNATURE) else "jpg"
    name = f"{text}_{observation.confidence:.3f}_{observation.version.number}_{digest}.{suffix}"
    is_fit = text and not text.startswith(".") and not _UNFIT & set(text) and len(name.encode()) < _NAME_BYTES
    return name if is_fit else None
