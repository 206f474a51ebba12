"""Accuracy by pictures seen, on a GPU: the Trainer's recipe on Keras' JAX backend, evaluated on test pictures used for nothing else.

    pip install 'jax[cuda13]' keras==3.12.4 captcha==0.7.0 pillow==12.3.0 pydantic pyyaml typer rich jinja2 google-crc32c protobuf
    KERAS_BACKEND=jax python -m benchmarks.gpu_curve alnum 400000 2000000/128/7e-3 10000000/128/7e-3

TensorFlow and TFX are neither needed nor used. The pictures are drawn in memory from the seed of the task, split as its spans are, and kept
on the GPU as bytes. Expected: one line per fit, appended to benchmarks/results/gpu_curve.jsonl, and the table of all recorded lines. On an
H100 with 16 cores, drawing 400,000 pictures takes two minutes, XLA compiles for 20 seconds, and a fit with batches of 128 sees four million
pictures per minute.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.in_memory import Split, draw, passes
from benchmarks.results import gpus, keep, kept, machine, record, versions
from benchmarks.tasks import TASKS
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.metrics import ReadingCounts, read, wilson_interval
from components.training.hyperparameters import Hyperparameters
from components.training.schedule import learning_rate_schedule
from pipeline.config.loading import load_config

_PRECISION: Final = "mixed_bfloat16"
_STEPS: Final = 250  # per dispatch


@dataclasses.dataclass(frozen=True)
class Fit:
    """The length of a fit in pictures seen, counting repeats, its batch size, and the highest learning rate of its schedule."""

    images: int
    batch_size: int
    learning_rate: float

    @classmethod
    def parse(cls, text: str) -> "Fit":
        """Parses a command-line argument, such as 512000/32/7e-3."""
        images, batch_size, learning_rate = text.split("/")
        return cls(int(images), int(batch_size), float(learning_rate))

    @property
    def dispatches(self) -> int:
        """The number of dispatches, each of _STEPS steps: at least 1."""
        return max(1, round(self.images / (_STEPS * self.batch_size)))


def main(
    task: Annotated[str, typer.Argument(help="a task of benchmarks/tasks.py, such as digits-final or alnum")],
    drawn: Annotated[int, typer.Argument(help="number of pictures to draw, all splits together")],
    wanted: Annotated[list[str], typer.Argument(help="fits as PICTURES/BATCH/RATE: pictures seen, batch size, highest rate")],
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1",
) -> None:
    file, changes = TASKS[task].options()[1], TASKS[task].options()[3::2]
    config = load_config(file, changes)
    started = time.monotonic()
    splits = draw(config, drawn, len(os.sched_getaffinity(0)))
    about = {"task": task, "drawn": drawn, "draw_s": round(time.monotonic() - started, 1)}
    print(about, flush=True)
    parameters = config.trainer
    for outcome in outcomes(
        config.captcha, parameters, splits, [Fit.parse(text) for text in wanted], [int(seed) for seed in seeds.split(",")]
    ):
        keep("gpu_curve", {**about, **outcome})
    record("gpu_curve", "Accuracy by pictures seen, on a GPU", *table(kept("gpu_curve")), NOTES, python="KERAS_BACKEND=jax python")


def outcomes(
    spec: CaptchaSpec, parameters: Hyperparameters, splits: dict[str, Split], wanted: list[Fit], seeds: list[int]
) -> Iterator[dict[str, Any]]:
    """Runs each fit with each seed, and yields the result row of each."""
    import jax
    import jax.numpy as jnp

    from benchmarks.on_jax import Learner, measure, to_device

    train, *judged = (to_device(splits[split]) for split in ("train", "eval", "test"))
    measures = measure(train.pixels)
    learner = Learner(spec, parameters, _PRECISION)
    compiled: dict[int, Any] = {}
    for fit, seed in itertools.product(wanted, seeds):
        steps = fit.dispatches * _STEPS
        seen = steps * fit.batch_size
        order = passes(len(train.labels), seen, seed).reshape(fit.dispatches, _STEPS, fit.batch_size)
        recipe = parameters.model_copy(update={"learning_rate": fit.learning_rate})
        schedule = jax.jit(jax.vmap(learning_rate_schedule(recipe, steps)))
        rates = np.asarray(schedule(jnp.arange(steps))).reshape(fit.dispatches, _STEPS)
        keys = jax.random.split(jax.random.key(seed), fit.dispatches)
        state = learner.start(seed)
        started = time.monotonic()
        if fit.batch_size not in compiled:
            compiled[fit.batch_size] = learner.steps.lower(state, train, measures, order[0], rates[0], keys[0]).compile()
        compile_s, started = time.monotonic() - started, time.monotonic()
        for number in range(fit.dispatches):
            state, losses = compiled[fit.batch_size](state, train, measures, order[number], rates[number], keys[number])
            if number % (fit.dispatches // 8 + 1) == 0:
                print(f"{number / fit.dispatches:.0%}: loss {losses.mean():.3f}, {time.monotonic() - started:.0f} s", flush=True)
        loss = round(float(losses.mean()), 4)
        fit_s = time.monotonic() - started
        yield {
            "preset": parameters.preset,
            "precision": _PRECISION,
            **dataclasses.asdict(fit),
            "images": seen,
            "train": len(train.labels),
            "seed": seed,
            "loss": loss,
            "compile_s": round(compile_s, 1),
            "fit_s": round(fit_s, 2),
            **{
                split: judge(spec, splits[split].labels, learner.read_all(state, pictures.pixels, measures))
                for split, pictures in zip(("eval", "test"), judged, strict=True)
            },
            "gpu": gpus(),
            "machine": machine(),
            "versions": versions(),
        }


def judge(spec: CaptchaSpec, labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> dict[str, Any]:
    """Counts correct readings, and how many of the misread characters are 0 for O or O for 0.

    Args:
      spec: the charset.
      labels: int [N, max_length].
      probabilities: float [N, max_length, num_classes].
    """
    counts = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    ids, chosen = read(probabilities, spec.min_length)
    counts.add_readings(labels, ids, chosen.prod(axis=-1))
    alike = [spec.characters.find(character) for character in "0O"]
    confusion = counts.confusion.toarray()
    swapped = confusion[alike, alike[::-1]].sum() if -1 not in alike else 0
    truth, folded = (np.where(classes == alike[1], alike[0], classes) for classes in (labels, ids))
    return {
        "pictures": counts.examples,
        "read": counts.sequences_right,
        "read_with_0_for_o": int((truth == folded).all(axis=1).sum()),
        "position_accuracy": round(float(counts.positions_right.sum() / counts.positions_seen.sum()), 6),
        "misread": int(confusion.sum() - np.trace(confusion)),
        "misread_0_o": int(swapped),
    }


NOTES: Final = [
    "Model, loss, optimizer and schedule are the Trainer's own. Each fit runs a complete schedule.",
    "Pictures and splits are those of the task. Additional pictures continue its seed and are split in the same way.",
    f"Unlike the Trainer: Keras' JAX backend, pictures and shifts on the GPU, {_STEPS} steps per dispatch, batches across passes.",
    "Times exclude drawing and compiling.",
]


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows: one row per fit, for all its seeds."""
    columns = [
        "task",
        "training pictures",
        "pictures seen",
        "batch, rate",
        "median fit time",
        "pictures/s",
        "full-sequence accuracy on eval, per seed",
        "on test, per seed",
        "median (95 % interval)",
        "with 0 = O",
        "misread characters",
        "of these, 0 for O or O for 0",
        "GPU",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["task"], row["train"], row["images"], row["batch_size"], row["learning_rate"], row["gpu"]].append(row)
    lines = []
    for (task, train, images, batch_size, rate, gpu), runs in sorted(groups.items()):
        tests = [run["test"] for run in runs]
        pictures = tests[0]["pictures"]
        middle = wilson_interval(statistics.median_low(test["read"] for test in tests), pictures, 0.95)
        # A row's seconds are null if the GPU did other work during the fit.
        seconds = statistics.median(run["fit_s"] for run in runs) if all(run["fit_s"] for run in runs) else None
        lines.append(
            [
                task,
                f"{train:,}",
                f"{images:,}",
                f"{batch_size}, {rate:g}",
                f"{seconds:.1f} s" if seconds else "not measured",
                f"{images / seconds:,.0f}" if seconds else "",
                ", ".join(f"{run['eval']['read'] / run['eval']['pictures']:.2%}" for run in runs),
                ", ".join(f"{test['read'] / pictures:.2%}" for test in tests) + f" of {pictures:,}",
                f"{middle.value:.2%} ({middle.lower:.2%} to {middle.upper:.2%})",
                ", ".join(f"{test['read_with_0_for_o'] / pictures:.2%}" for test in tests),
                ", ".join(f"{test['misread']:,}" for test in tests),
                ", ".join(f"{test['misread_0_o']:,}" for test in tests),
                gpu,
            ]
        )
    return columns, lines


if __name__ == "__main__":
    typer.run(main)
