"""Trains models in the background, each on all labels so far. Each training is a process of its own: `captcha-pipeline retrain`.

These models only help with labelling. They may be below the floor of the configuration, and worse than the model in production. So their
pipeline has its own folder, ROOT/NAME/labelling, with its own runs and its own serving folder, and the gate of its Evaluator lets every
model pass. None of these models reaches production: `captcha-pipeline run` trains the model for production.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from components.base.errors import Busy, CaptchaPipelineError
from components.base.features import SPLITS
from components.base.files import locked, write_whole
from components.data.sources.outcome import Imported
from components.data.spans import list_spans, span_numbers
from components.serving.serving_dir import push, versions
from components.training.hyperparameters import WarmStart
from pipeline.config.config import Config, GcConfig, RetrainingConfig
from pipeline.labelling.labels import InSpans, in_spans, write_span
from pipeline.labelling.opening import folder_of
from pipeline.labelling.session import Session
from pipeline.logs import rotate
from pipeline.runs.scheduler import retrain_command

_LOG: Final = logging.getLogger(__name__)
FIRST: Final = 60  # labels in all splits before the first model is trained
_FIRST_OF_SPLIT: Final = 4  # labels in the eval split, and in the test split, before the first model is trained
_WARM_SHARE: Final = 1 / 3  # the passes of a warm start, as a share of those of a cold start
_FEWEST_PASSES: Final = 2  # of a warm start
_KEPT: Final = 2  # the number of models and of runs that are kept
_NICENESS: Final = 10  # of the training process, so that the page stays quick
_TAIL_LINES: Final = 12  # of the log, shown on the page after a failure
_TAIL_BYTES: Final = 4096  # of the log, read to find these lines
_LOOK_AGAIN: Final = 1.0  # seconds between two checks whether a training can begin
_SECONDS_TO_END: Final = 60.0  # an interrupted training is killed if it has not ended after this time
_AT_WORK: Final = "A run (process {}) is at work in %s. The training begins when that run ends."

State = Literal["waiting", "running", "failed"]


@dataclasses.dataclass(frozen=True)
class Status:
    """What the training does now.

    Attributes:
      state: "waiting" for labels or for another run; "running"; or "failed", and waiting for more labels.
      words: the state in one or two sentences, for the person on the page.
      log: path of the file to which trainings write their output. It does not exist before the first training.
      tail: the last lines of that output after a failure; "" otherwise.
    """

    state: State
    words: str
    log: str = ""
    tail: str = ""


def labelling_config(config: Config) -> Config:
    """Returns the configuration of the pipeline that trains models for labelling. It writes its output to ROOT/NAME/labelling/NAME.

    It trains on all spans that `data.exclude` does not name, because labelling makes many small spans, and its gate lets every model pass.
    """
    gate = {"min_sequence_accuracy": 0.0, "max_regression": 1.0, "max_slice_regression": 1.0}
    return config.model_copy(
        update={
            "root": str(folder_of(config)),
            "data": config.data.model_copy(update={"window": None, "half_life": None}),
            "drift": config.drift.model_copy(update={"action": "warn"}),
            "evaluator": config.evaluator.model_copy(update=gate),
            "pusher": config.pusher.model_copy(update={"serving_dir": None, "keep": _KEPT}),
            "retraining": RetrainingConfig(),
            "gc": GcConfig(keep_runs=_KEPT),
        }
    )


def take_over_production(config: Config) -> None:
    """Copies the newest model in production into the serving folder of the labelling, if that folder has no model yet.

    Does nothing if there is no model in production, if it has another section `captcha`, or if it cannot be served.

    Raises:
      CaptchaPipelineError: a serving folder is damaged or cannot be written.
    """
    target = labelling_config(config)
    newest = next(iter(versions(config.serving_dir)), None)
    if newest is not None and newest.spec == config.captcha and newest.servable and not versions(target.serving_dir):
        push(newest.path, target.serving_dir, _KEPT)


class Retraining:
    """Trains a model whenever there are enough new labels.

    Attributes:
      imports: the result of each span that was written for a training, or by `finish`.
    """

    def __init__(self, config: Config, session: Session, every: int, refresh: Callable[[], Awaitable[None]]):
        """
        Args:
          config: of the pipeline.
          session: has the labels.
          every: a new model is trained after this many new labels.
          refresh: looks for a new version in the serving folder of the labelling, and loads it.
        """
        self._at_work: Status | None = None
        self.imports: list[Imported] = []
        self._config = config
        self._inner = labelling_config(config)
        self._session = session
        self._every = every
        self._refresh = refresh
        self._folder = folder_of(config)
        self._log = self._folder / "retrain.log"
        self._failed_at: int | None = None  # the number of new labels when the last training failed; None if it did not fail
        self._count()

    @property
    def status(self) -> Status:
        """What the training does now."""
        status = self._at_work or Status("waiting", "", str(self._log))
        if status.state != "running" and (missing := self._missing()):
            status = dataclasses.replace(status, words=f"{status.words} {missing}".lstrip())
        return status

    async def run(self) -> None:
        """Trains models until the task is cancelled. If a training runs then, it is stopped; the next training resumes it."""
        while True:
            try:
                if not self._missing():
                    await self._train()
            except CaptchaPipelineError as error:
                self._fail(str(error))
            except Exception as error:  # the person can still label, and the next try may succeed
                _LOG.exception("The training failed")
                self._fail(f"The training failed: {error!r}.")
            await asyncio.sleep(_LOOK_AGAIN)

    def _missing(self) -> str:
        """Returns a sentence that says what the next training waits for; "" if it can begin."""
        labels = self._session.new_labels()
        if self._failed_at is not None:
            return _further(self._failed_at + self._every - labels, "The next try begins")
        if self._session.model is not None:
            return _further(self._every - labels, "The next model is trained")
        there = self._there()
        if (needed := FIRST - there.total()) > 0:
            return _further(needed, "The first model is trained")
        for split in SPLITS[1:]:
            in_folder = self._session.in_split(split)
            if there[split] < 1 and not in_folder:
                return f"No picture of the folder belongs to the {split} split, which a model needs. Add pictures, or change data.splits."
            if there[split] < (enough := min(_FIRST_OF_SPLIT, in_folder)):
                return (
                    f"The first model is trained when {enough} pictures of the {split} split are labelled; so far there are "
                    f"{there[split]}. They are among the random pictures that the page shows."
                )
        return ""

    @property
    def labels(self) -> int:
        """The number of labels of people, in the spans that are used and not yet in a span."""
        return self._by_people + self._session.by_split().total()

    def _there(self) -> Counter[str]:
        """Returns the number of labels by split, in the spans and not yet in a span."""
        return self._in_spans + self._session.by_split()

    async def _train(self) -> None:
        try:
            with locked(Path(self._config.run_lock), _AT_WORK % self._folder.parent):
                self._check_free()
                await self._refresh()  # a training that an earlier process left running may have made a model in the meantime
                self._at_work = None
                if not self._missing():
                    await self._train_now()
        except Busy as busy:
            self._at_work = Status("waiting", str(busy))

    def _check_free(self) -> None:
        """Raises Busy if a training still runs that an earlier process of `captcha-pipeline label` started before it was killed."""
        with locked(Path(self._inner.run_lock), _AT_WORK % self._folder):
            pass

    async def _train_now(self) -> None:
        self._at_work = Status("running", "Writing the labels to a span …", str(self._log))
        await self._write_labels()
        labels = self._by_people
        self._session.begin_model(max(span_numbers(self._config.data.root), default=0), labels)
        before = self._session.model
        settings = self._folder / "pipeline.yaml"
        write_whole(settings, self._warm().as_yaml())
        rotate(self._log)
        started = time.monotonic()
        self._at_work = Status("running", f"Training a model with {labels:,} labels …", str(self._log))
        with self._log.open("ab") as log:
            begin = log.tell()
            process = await asyncio.create_subprocess_exec(
                *retrain_command(settings, []),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the training (_end)
            )
            try:
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
                code = await process.wait()
            except asyncio.CancelledError:
                await _end(process)
                raise
        await self._refresh()
        after = self._session.model
        if after is not None and after != before:
            self._failed_at = self._at_work = None
            return
        if code == 0:
            # A training that an earlier process left running may have taken the lock only after the check in _train.
            self._check_free()
        self._session.abandon_model()
        seconds = time.monotonic() - started
        self._fail(f"The training ended after {seconds:.0f} s with exit code {code}, and there is no new model.", self._tail(begin))

    def finish(self) -> None:
        """Writes the labels that are not in a span yet to a new span, if there are any. Call it when `run` has ended.

        Raises:
          CaptchaPipelineError: as for `write_span`.
        """
        if labels := self._session.decisions.unwritten():
            self._note(labels, *self._write(labels))

    async def _write_labels(self) -> None:
        if labels := self._session.decisions.unwritten():
            self._note(labels, *await asyncio.to_thread(self._write, labels))

    def _write(self, labels: Mapping[int, str]) -> tuple[Imported, InSpans]:
        imported = write_span(self._config, self._session.catalogue, labels)
        return imported, in_spans(self._config, self._session.catalogue)

    def _note(self, labels: Mapping[int, str], imported: Imported, stored: InSpans) -> None:
        self.imports.append(imported)
        self._session.decisions.written(stored, labels)
        self._count()

    def _count(self) -> None:
        """Counts the labels in the spans that are used, by the split that a training would read them in.

        Corrections and labels of models do not count. Drawn pictures count as train.
        """
        spans = [span for span in list_spans(self._config.data.root) if span.number not in self._config.data.exclude]
        self._in_spans = sum((Counter(span.manifest.counts) for span in spans if span.is_imported), Counter[str]())
        self._by_people = self._in_spans.total()
        self._in_spans[SPLITS[0]] += sum(sum(span.manifest.counts.values()) for span in spans if span.is_drawn)

    def _warm(self) -> Config:
        """Returns the configuration of the next training.

        Unless `trainer.warm_start` is set, it is a warm start with a third of the passes of a cold start.
        """
        trainer = self._inner.trainer
        if trainer.warm_start is None:
            length = trainer.fit_length(max(self._there()["train"], 1))
            passes = max(round(_WARM_SHARE * length.epochs * length.passes), _FEWEST_PASSES)
            trainer = trainer.model_copy(update={"warm_start": WarmStart(epochs=passes)})
        return self._inner.model_copy(update={"trainer": trainer})

    def _fail(self, words: str, tail: str = "") -> None:
        self._failed_at = self._session.new_labels()
        self._at_work = Status("failed", words, str(self._log), tail)

    def _tail(self, begin: int) -> str:
        """Returns the last lines of what the log has after the position `begin`, in bytes; "" if the log cannot be read."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(begin, self._log.stat().st_size - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
        return ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Interrupts a training, as Ctrl-C does, and kills it if it has not ended after a minute."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), _SECONDS_TO_END)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


def _further(needed: int, what: str) -> str:
    """Returns a sentence about the number of labels that are still needed; "" if none are needed."""
    return f"{what} after {needed:,} more label{'s' * (needed != 1)}." if needed > 0 else ""
