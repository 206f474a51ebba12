"""The versions that a server has loaded, and how it follows the serving folder."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError
from components.serving.canaries import check_canaries
from components.serving.loaded import LoadedModel
from components.serving.serving_dir import Pushed, versions

_LOG: Final = logging.getLogger(__name__)


class State(str, Enum):
    """The states of TensorFlow Serving (ModelVersionStatus.State) that a version goes through."""

    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass
class Status:
    """The state of a version. `problem` says why it could not be loaded; "" if nothing is wrong."""

    state: State
    problem: str = ""


class Version:
    """A loaded version.

    Attributes:
      pushed: its folder, its number and what it reads.
      model: its signatures.
    """

    def __init__(self, pushed: Pushed, model: LoadedModel):
        self.pushed = pushed
        self.model = model
        self._users = 0

    @property
    def number(self) -> int:
        """The number of the version."""
        return self.pushed.version

    @property
    def idle(self) -> bool:
        """Whether no request uses the version."""
        return not self._users

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keeps the version loaded during the block. Call it in the event loop's thread only."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1


class NoSuchVersion(CaptchaPipelineError):
    """The version or label is not loaded, or no version has been pushed yet."""


class NoSuchLabel(NoSuchVersion):
    """The configuration has no such label."""


class Versions:
    """Loads the newest version of a serving folder, and those that have a label.

    A version replaces another only after it has been loaded beside it and has read its canary pictures right. Requests that came before
    are answered by the old version, which is then unloaded. A version that cannot be loaded is reported once and not tried again; the
    one before goes on. A rollback adds a copy as the newest version, and so is followed like a push.
    """

    def __init__(self, serving_dir: Path, labels: Mapping[str, int], executor: Executor, changed: Callable[["Versions"], None]):
        """Loads nothing yet; see `refresh`.

        Args:
          serving_dir: TensorFlow Serving's base path.
          labels: version numbers by label. These versions stay loaded.
          executor: a thread to load models in.
          changed: called after each change of the loaded or refused versions.
        """
        self._serving_dir = serving_dir
        self._labels = labels
        self._executor = executor
        self._changed = changed
        self._loaded: dict[int, Version] = {}
        self._retired: list[Version] = []
        self._current: Version | None = None
        self.statuses: dict[int, Status] = {}
        self.folder_problem = ""

    @property
    def current(self) -> Version | None:
        """The version that answers requests without a version; None before the first one is loaded."""
        return self._current

    @property
    def available(self) -> list[int]:
        """The numbers of the loaded versions, ascending."""
        return sorted(self._loaded)

    def find(self, number: int | None = None, label: str | None = None) -> Version:
        """Returns a loaded version by its number or its label; the newest one without either.

        Raises:
          NoSuchVersion: it is not loaded.
        """
        if label is not None:
            if label not in self._labels:
                raise NoSuchLabel(f"Unrecognized servable version label: {label}")
            number = self._labels[label]
        version = self._current if number is None else self._loaded.get(number)
        if version is None:
            which = "Latest" if number is None else f"Specific({number})"
            raise NoSuchVersion(f"Servable not found for request: {which}")
        return version

    async def refresh(self) -> None:
        """Looks at the serving folder once: loads new versions and unloads those that are no longer wanted."""
        run = asyncio.get_running_loop().run_in_executor
        try:
            there = {pushed.version: pushed for pushed in await run(self._executor, versions, self._serving_dir)}
        except (CaptchaPipelineError, OSError) as error:  # a damaged version, or one that is just removed; the server goes on
            if str(error) != self.folder_problem:
                self.folder_problem = str(error)
                _LOG.error("%s", error)
            return
        self.folder_problem = ""
        before = {*self._loaded.values(), *self._retired}
        for number in self._labels.values():
            if number in there:
                await self._load(there[number])
        for number in sorted(there, reverse=True):
            if await self._load(there[number]):
                break
        self._choose(set(there))
        await self._unload()
        if before != {*self._loaded.values(), *self._retired}:
            await run(self._executor, _collect_garbage)

    async def follow(self, seconds: float) -> None:
        """Calls `refresh` again and again, `seconds` after the last call, until the task is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.refresh()
            except Exception:  # or the server would never follow a push again
                _LOG.exception("The serving folder could not be followed")

    def close(self) -> None:
        """Unloads everything."""
        for version in (*self._loaded.values(), *self._retired):
            version.model.close()

    async def _load(self, pushed: Pushed) -> bool:
        """Returns whether the version is loaded, after an attempt to load it if there was none yet."""
        number = pushed.version
        if number in self._loaded or (number in self.statuses and self.statuses[number].problem):
            return number in self._loaded
        self.statuses[number] = Status(State.LOADING)
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._executor, _load_and_check, pushed)
        except Exception as error:  # whatever TensorFlow raises means that the version cannot be served
            problem = str(getattr(error, "message", error)) or type(error).__name__
            self.statuses[number] = Status(State.END, problem)
            _LOG.error("Version %d is refused: %s", number, problem)
            return False
        self._loaded[number] = Version(pushed, model)
        self.statuses[number] = Status(State.AVAILABLE)
        return True

    def _choose(self, there: set[int]) -> None:
        """Makes the newest loaded version the current one, and retires those that are no longer wanted.

        Args:
          there: the numbers in the serving folder. If it has no version that can be loaded, the current version stays.
        """
        newest = max((number for number in self._loaded if number in there), default=None)
        if newest is not None and self._loaded[newest] is not self._current:
            self._current = self._loaded[newest]
            _LOG.info("Version %d answers requests now", newest)
        wanted = {self._current.number if self._current else None, *self._labels.values()}
        for number in [number for number in self._loaded if number not in wanted]:
            self.statuses[number] = Status(State.UNLOADING)
            self._retired.append(self._loaded.pop(number))
        for number in [number for number in self.statuses if number not in there and number not in self._loaded]:
            del self.statuses[number]
        self._changed(self)

    async def _unload(self) -> None:
        for version in [version for version in self._retired if version.idle]:
            self._retired.remove(version)
            await asyncio.get_running_loop().run_in_executor(self._executor, version.model.close)
            if version.number in self.statuses:
                self.statuses[version.number] = Status(State.END)


def _collect_garbage() -> None:
    """Frees what unloaded versions left, and keeps Python from looking through everything that is left again and again.

    TensorFlow and a model are so many Python objects that full collections took a third of the time of a server under load.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _load_and_check(pushed: Pushed) -> LoadedModel:
    if pushed.spec is None:
        raise CaptchaPipelineError(f"{pushed.path} was not exported by this pipeline: it has no captcha.json.")
    if not pushed.servable:
        raise CaptchaPipelineError(f"An earlier release exported {pushed.path}; servers cannot use it. Train a new model.")
    model = LoadedModel(pushed.path)
    try:
        check_canaries(model, pushed.path)
    except BaseException:
        model.close()
        raise
    return model
