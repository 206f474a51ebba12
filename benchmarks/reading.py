"""Speed of reading transformed examples into batches, and whether a fit waits for its batches.

    uv run python -m benchmarks.reading

Expected: 20,000 pictures per second or more without shifts, and a fit that waits for its input less than 2 % of its time. Four minutes on
2 cores, and two more if the data is still missing.

Input and model share the cores, so "waits" can mean two things, and both are measured. The first is the time for which the step stands
still until the next batch is ready, minus the time that tf.data takes to hand over a batch that is always ready. The second is the work
that makes the batch: it runs in parallel with the step and takes cores from it, even if nothing waits. A comparison with an epoch in which
every step gets the same batch shows it.
"""

import itertools
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import tensorflow as tf

from benchmarks.prepared import prepare
from benchmarks.results import record
from benchmarks.tasks import TASKS
from components.training.batches import count_records, record_files, training_batches
from components.training.run_fn import compiled_model
from pipeline.logs import silence

LATER_EPOCHS: Final = 5
ROUNDS: Final = 3


@dataclass(frozen=True)
class Loop:
    """Seconds of an epoch: in total, waiting for the next batch, and of CPU time."""

    wall: float
    waiting: float
    cpu: float


def read_rates(batches: tf.data.Dataset, count: int) -> list[tuple[float, float]]:
    """Returns pictures per second and CPU seconds per picture, of the first epoch and of each of LATER_EPOCHS more."""
    rates = []
    for _ in range(1 + LATER_EPOCHS):
        cpu, wall = time.process_time(), time.perf_counter()
        seen = sum(int(labels.shape[0]) for _, labels in batches)
        rates.append((count / (time.perf_counter() - wall), (time.process_time() - cpu) / count))
        assert seen == count
    return rates


def timed_loop(step: tf.types.experimental.PolymorphicFunction, batches: Iterable[object], steps: int) -> Loop:
    """Runs `step` on the first `steps` batches, and returns the times."""
    waiting = 0.0
    following = iter(batches)
    cpu, started = time.process_time(), time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(following)
        waiting += time.perf_counter() - asked
        step(batch)
    return Loop(time.perf_counter() - started, waiting, time.process_time() - cpu)


def main() -> None:
    silence()
    config = TASKS["digits-recipe"].config()
    parameters = config.trainer
    files = record_files(prepare(config).files("train"), "train")
    count = count_records(files)

    def batches(shift: int) -> tf.data.Dataset:
        return training_batches(files, count, config.captcha, parameters.model_copy(update={"shift": shift}))

    rows = []
    for shift in (0, parameters.shift):
        first, *later = read_rates(batches(shift), count)
        augmented = f"shifted by up to {shift} pixels" if shift else "not shifted"
        for name, (rate, cpu) in (
            ("first epoch, from files", first),
            ("later epochs, from memory", (statistics.median(rate for rate, _ in later), statistics.median(cpu for _, cpu in later))),
        ):
            rows.append([f"{name}, {augmented}", f"{rate:,.0f} pictures/s", f"{1e6 * cpu:.0f} µs"])

    model = compiled_model(config.captcha, parameters, parameters.fit_length(count).steps)
    step = tf.function(model.train_step, reduce_retracing=True)
    dataset, steps = batches(parameters.shift), count // parameters.batch_size
    same = next(iter(dataset))
    for batch in dataset:  # this epoch fills the cache, traces the step and warms up
        step(batch)
    ready = tf.data.Dataset.from_tensors(same).repeat()
    real, handed, repeated = [], [], []
    for _ in range(ROUNDS):
        real.append(timed_loop(step, dataset, steps))
        handed.append(timed_loop(step, ready, steps))
        repeated.append(timed_loop(step, itertools.repeat(same), steps))
    pictures = steps * parameters.batch_size
    fetching, handing = (statistics.median(loop.waiting / loop.wall for loop in loops) for loops in (real, handed))
    wall, cpu = (
        statistics.median(getattr(ours, clock) / getattr(theirs, clock) for ours, theirs in zip(real, repeated, strict=True))
        for clock in ("wall", "cpu")
    )
    rows += [
        [
            f"{name}, {steps} steps of {parameters.batch_size}",
            f"{statistics.median(pictures / loop.wall for loop in loops):,.0f} pictures/s",
            f"{1e6 * statistics.median(loop.cpu / pictures for loop in loops):,.0f} µs",
        ]
        for name, loops in (("training on real input", real), ("training on one repeated batch", repeated))
    ]
    record(
        "reading",
        f"Reading transformed examples in batches of {parameters.batch_size}: "
        f"{count:,} pictures of {config.captcha.width}x{config.captcha.height}",
        ["measurement", "rate", "CPU time per picture"],
        rows,
        [
            f"Waiting for a requested batch takes {fetching:.2%} of the training time (medians of {ROUNDS} rounds).",
            f"If tf.data hands over one repeated batch: {handing:.2%}. The difference is the actual wait: {fetching - handing:.2%}.",
            f"Real input takes {wall:.3f} times the time and {cpu:.3f} times the CPU time of one repeated batch (medians, alternating).",
            "The files are in the system's cache. Later epochs: medians of 5.",
        ],
    )


if __name__ == "__main__":
    main()
