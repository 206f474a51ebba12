"""Reads the pictures of a folder with the newest model: all of them in the background, and a picture that is about to be shown at once."""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from components.base.features import CONFIDENCE, MAX_PIXELS, TEXT, VALID, WRONG_SIZE
from components.data.pictures import PictureError, PictureRules, inspect_picture
from components.data.sources.outcome import Imported
from components.data.spans import span_numbers
from pipeline.config.config import Config
from pipeline.labelling.session import Session
from pipeline.server.versions import Version, Versions

_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 64  # pictures that the model reads at once
_PAUSE: Final = 0.02  # seconds between two batches, so that the page stays quick


class Models:
    """Loads new versions from the serving folder of the labelling, and reads the pictures with the newest one.

    Attributes:
      versions: the loaded versions.
      done, total: how many pictures the newest model has read, and how many it will read.
    """

    def __init__(self, config: Config, serving_dir: Path, session: Session):
        """Loads nothing yet.

        Args:
          config: of the pipeline.
          serving_dir: the folder of the versions.
          session: the readings are stored in it.
        """
        self.done = self.total = 0
        self._failure = ""
        self._rules = config.data.picture_rules
        self._data_root = config.data.root
        self._session = session
        # Reading and loading have a thread each, so that reading goes on while a new model is loaded.
        self._reader, self._loader = ThreadPoolExecutor(1, "reader"), ThreadPoolExecutor(1, "loader")
        self._changed = asyncio.Event()
        self.versions = Versions(serving_dir, {}, self._loader, self._on_change)

    def _on_change(self, versions: Versions) -> None:
        version = versions.current
        model = self._session.model
        if version is not None and (model is None or model.version != version.number):
            self._session.use_model(version.number, max(span_numbers(self._data_root), default=0))
            self._changed.set()

    @property
    def problem(self) -> str:
        """Why the newest version cannot be used, or cannot read pictures; "" if there is no problem."""
        refused = [f"version {number}: {status.problem}" for number, status in sorted(self.versions.statuses.items()) if status.problem]
        return self._failure or self.versions.folder_problem or "; ".join(refused[-1:])

    async def run(self) -> None:
        """Reads all pictures with each new model, and then orders the pictures by its confidences. Runs until the task is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if await self._read_all():
                self._session.follow_model()

    async def _read_all(self) -> bool:
        """Reads all pictures with the newest model. Returns False if it failed, or if a newer model was loaded in the meantime."""
        pictures = self._session.to_read()
        self.done, self.total = 0, len(pictures)
        for start in range(0, len(pictures), _BATCH):
            await self.read(pictures[start : start + _BATCH])
            if self._failure or self._changed.is_set():
                return False
            self.done = min(start + _BATCH, len(pictures))
            await asyncio.sleep(_PAUSE)
        return True

    async def read(self, numbers: Sequence[int]) -> None:
        """Reads those of the pictures that the newest model has not read yet. Does nothing if there is no model.

        If the model fails, `problem` says so, and the pictures keep their earlier readings.

        Args:
          numbers: indices in the catalogue.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        version, readings = self.versions.current, self._session.readings
        if version is None:
            return
        missing = [number for number in numbers if readings.versions[number] != version.number]
        if not missing:
            return
        with version.used():
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._reader, self._call, version, missing)
            except Exception as error:  # TensorFlow raises many kinds; a person can label without readings
                _LOG.exception("Version %d cannot read pictures", version.number)
                self._failure = f"version {version.number}: {getattr(error, 'message', error)}"
                return
        self._failure = ""
        self._session.note_readings(version.number, found)

    def _call(self, version: Version, numbers: Sequence[int]) -> dict[int, tuple[str, float]]:
        about, spec = version.pushed.about, version.pushed.spec
        assert spec is not None, "only such versions are loaded"
        rules: PictureRules = dataclasses.replace(
            self._rules, wrong_size=about.get(WRONG_SIZE, "resize"), max_pixels=about.get(MAX_PIXELS, self._rules.max_pixels)
        )
        found = dict.fromkeys(numbers, ("", 0.0))  # what a picture keeps if the model cannot read it
        encoded: dict[int, bytes] = {}
        for number in numbers:
            data = self._session.catalogue.read(number, Imported())
            try:
                encoded[number] = inspect_picture(data or b"", spec, rules).encoded
            except PictureError:
                continue
        answer = version.model.call("serving_default", list(encoded.values()))
        for number, text, confidence, valid in zip(encoded, answer[TEXT], answer[CONFIDENCE], answer[VALID], strict=True):
            if valid:
                found[number] = (text.decode(), float(confidence))
        return found

    def close(self) -> None:
        """Unloads the models. Call it when `run` and `read` have ended."""
        self._reader.shutdown()
        self._loader.shutdown()
        self.versions.close()
