"""Overhead of the Trainer's fit compared with the same model in a plain Keras script.

    uv run python -m benchmarks.fit_overhead

Expected: at most 1.03 times the time of `model.fit(images, labels)` on the same pictures as arrays, although the Trainer reads TFRecords
and writes a checkpoint and TensorBoard files after every epoch. The script does not augment, so the fit with augmentation has a row of its
own. Five minutes on 2 cores.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import keras
import numpy as np
import tensorflow as tf

from benchmarks.prepared import prepare
from benchmarks.results import record
from benchmarks.tasks import TASKS
from components.training.batches import count_records, evaluation_batches, record_files, training_batches
from components.training.checkpoint import Checkpoint
from components.training.devices import choose_strategy
from components.training.run_fn import EVALUATION_BATCH, Examples, compiled_model, fit_to
from pipeline.logs import silence

ROUNDS: Final = 3


@dataclass
class Times:
    """Wall-clock and CPU seconds of each epoch."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def medians(self) -> list[str]:
        """Returns the medians without the first epoch, which traces the steps and fills the caches."""
        return [f"{statistics.median(self.wall[1:]):.1f}", f"{statistics.median(self.cpu[1:]):.1f}"]

    def ratios(self, other: "Times") -> list[str]:
        """Returns the medians of the ratios to `other` within each round, without the first epoch."""
        pairs = ((self.wall, other.wall), (self.cpu, other.cpu))
        return [f"{statistics.median(ours / theirs for ours, theirs in zip(a[1:], b[1:], strict=True)):.3f}" for a, b in pairs]


class TakeTurns(keras.callbacks.Callback):
    """Runs an epoch of another fit after each epoch of this fit, so that other load on the machine affects both.

    It must be the last callback, because the work of the other callbacks is part of the epoch.
    """

    def __init__(self, other_epoch: Callable[[], None]):
        super().__init__()
        self.ours, self.theirs = Times(), Times()
        self._other_epoch = other_epoch
        self._started = (0.0, 0.0)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._stop(self.ours)
        self._other_epoch()
        self._stop(self.theirs)

    def _stop(self, times: Times) -> None:
        now = time.perf_counter(), time.process_time()
        times.wall.append(now[0] - self._started[0])
        times.cpu.append(now[1] - self._started[1])
        self._started = time.perf_counter(), time.process_time()


def arrays(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of all batches, each concatenated into one array."""
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def main() -> None:
    silence()
    config = TASKS["digits-recipe"].config()
    parameters = config.trainer
    prepared = prepare(config)
    files, eval_files = (record_files(prepared.files(split), split) for split in ("train", "eval"))
    count = count_records(files)
    length = parameters.fit_length(count)
    judged_by = eval_files[:1]
    strategy = choose_strategy(parameters.strategy)

    plain = compiled_model(config.captcha, parameters, length.steps)
    images, labels = arrays(training_batches(files, count, config.captcha, parameters.model_copy(update={"shift": 0})))
    judged = arrays(evaluation_batches(judged_by, config.captcha, EVALUATION_BATCH))

    def plain_epoch() -> None:
        plain.fit(
            images,
            labels,
            batch_size=parameters.batch_size,
            validation_data=judged,
            validation_batch_size=EVALUATION_BATCH,
            verbose=0,
        )

    def in_turn(shift: int) -> TakeTurns:
        model = compiled_model(config.captcha, parameters, length.steps)
        with tempfile.TemporaryDirectory() as folder:
            epochs = 1 + ROUNDS
            turns = TakeTurns(plain_epoch)
            shown = keras.callbacks.TensorBoard(f"{folder}/tensorboard", write_graph=False)
            checkpoint = Checkpoint(Path(folder, "checkpoint"), epochs, patience=epochs, chooses=True)
            fitted = parameters.model_copy(update={"shift": shift})
            rounds = replace(length, epochs=epochs)
            fit_to(Examples(files, judged_by, count), model, config.captcha, fitted, rounds, strategy, 0, [shown, checkpoint, turns])
        return turns

    equal, augmented = in_turn(0), in_turn(parameters.shift)
    record(
        "fit_overhead",
        f"Epoch time of the Trainer's fit and of plain Keras: {count:,} training and {len(judged[0]):,} evaluation pictures",
        ["fit", "seconds", "CPU seconds", "ratio to the script", "CPU ratio to the script"],
        [
            ["plain Keras script, arrays in memory", *equal.theirs.medians(), "1", "1"],
            ["the Trainer's fit, no augmentation", *equal.ours.medians(), *equal.ours.ratios(equal.theirs)],
            ["the Trainer's fit", *augmented.ours.medians(), *augmented.ours.ratios(augmented.theirs)],
        ],
        [
            f"Medians of {ROUNDS} epochs. Trainer and script alternate in one process; the first epoch of each is excluded.",
            "Ratios are medians of the ratios in each round.",
        ],
    )


if __name__ == "__main__":
    main()
