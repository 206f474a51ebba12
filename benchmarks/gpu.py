"""Pictures per second on a GPU in training and reading, for each network, in float32 and bfloat16, by batch size.

    pip install 'jax[cuda13]' keras==3.12.4 captcha==0.7.0 pillow==12.3.0 pydantic pyyaml typer rich jinja2 google-crc32c protobuf
    KERAS_BACKEND=jax python -m benchmarks.gpu --only vgg-slim
    KERAS_BACKEND=jax XLA_FLAGS=--xla_gpu_enable_triton_gemm=false python -m benchmarks.gpu

Expected: one line per measurement, appended to benchmarks/results/gpu.jsonl, and the table of all recorded lines. Measurements that are
already recorded for this GPU are skipped. Each takes about thirty seconds for `vgg-slim`, nearly all of it XLA's compilation. With Triton's
matrix products, XLA had not compiled the twelve programs of the larger networks, side by side, after six minutes. Without Triton each took
less than one minute.

The measured training step is the Trainer's, with optimizer, shifts and normalisation, on Keras' JAX backend. The pictures are random and
stored on the GPU. One dispatch runs enough steps for about 16,000 pictures.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.in_memory import Split
from benchmarks.operations import reading_operations, training_operations
from benchmarks.results import gpus, keep, kept, machine, record, versions
from benchmarks.tasks import TASKS
from components.data.captcha_spec import CaptchaSpec
from components.training.model import PRESETS
from pipeline.config.config import Config
from pipeline.config.loading import load_config

_PICTURES: Final = 16_384
_REPETITIONS: Final = 5
_RATE: Final = 1e-5  # so small that no network diverges on random labels
_SIDE: Final = 8_192  # of the matrices that measure the speed of the GPU itself
# The most informative first. float32 is for comparison.
_MEASUREMENTS: Final = (
    *itertools.product(("mixed_bfloat16",), (1024, 256, 32), tuple(PRESETS)),
    *itertools.product(("float32",), (1024, 32), ("vgg-slim",)),
)


def main(
    only: Annotated[str, typer.Option(help="networks, comma-separated")] = ",".join(PRESETS),
    tasks: Annotated[str, typer.Option(help="comma-separated; see benchmarks/tasks.py")] = "alnum,digits-final",
) -> None:
    about = {"gpu": gpus(), "machine": machine(), "versions": versions()}
    here = [row for row in kept("gpu") if row["gpu"] == about["gpu"]]
    for dtype in sorted({"bfloat16", "float32"} - {row.get("matrix") for row in here}):
        keep("gpu", {"matrix": dtype, "flops_per_s": matrix_rate(dtype), **about})
    measured = {(row["precision"], row["batch_size"], row["preset"], row["task"]) for row in here if "preset" in row}
    configs = {name: load_config(TASKS[name].options()[1]) for name in tasks.split(",")}
    for (precision, batch_size, network), (name, config) in itertools.product(_MEASUREMENTS, configs.items()):
        if network in only.split(",") and (precision, batch_size, network, name) not in measured:
            keep("gpu", {"task": name, "preset": network, **rates(config, network, precision, batch_size), **about})
    record("gpu", "Pictures per second on a GPU", *table(kept("gpu")), NOTES, python="KERAS_BACKEND=jax python")


def matrix_rate(dtype: str) -> float:
    """Returns the floating-point operations per second of a product of square, normally distributed matrices of type `dtype`."""
    import jax
    import jax.numpy as jnp

    left, right = (jax.random.normal(jax.random.key(seed), (_SIDE, _SIDE), jnp.dtype(dtype)) for seed in (0, 1))
    return 2 * _SIDE**3 / _seconds(partial(jax.jit(jnp.matmul), left, right))


def rates(config: Config, network: str, precision: str, batch_size: int) -> dict[str, Any]:
    """Returns pictures per second in training and reading, and the floating-point operations per picture of both."""
    import jax

    from benchmarks.on_jax import Learner, measure, to_device

    spec = config.captcha
    parameters = config.trainer.model_copy(update={"preset": network, "batch_size": batch_size})
    learner = Learner(spec, parameters, precision)
    pictures = to_device(random_pictures(spec))
    measures, state = measure(pictures.pixels), learner.start(parameters.seed)
    order = np.arange(_PICTURES, dtype=np.int32).reshape(-1, batch_size)
    pace, key = np.full(len(order), _RATE, np.float32), jax.random.key(0)
    steps = learner.steps.lower(state, pictures, measures, order, pace, key).compile()

    def train() -> Any:
        nonlocal state
        state, losses = steps(state, pictures, measures, order, pace, key)
        return losses

    trained = _seconds(train)
    return {
        "precision": precision,
        "batch_size": batch_size,
        "weights": learner.model.count_params(),
        "training_per_s": _PICTURES / trained,
        "reading_per_s": _PICTURES / _seconds(partial(learner.read, state, pictures.pixels, measures, order)),
        "training_flops": training_operations(learner.model),
        "reading_flops": reading_operations(learner.model),
    }


def random_pictures(spec: CaptchaSpec) -> Split:
    """Returns _PICTURES random pictures with random labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_PICTURES, spec.height, spec.width, spec.channels), np.uint8)
    return Split(pixels, rng.integers(0, spec.num_classes, (_PICTURES, spec.max_length), np.int32))


def _seconds(run: Callable[[], Any]) -> float:
    """Returns the median seconds until the result of `run` is ready. The first call, which compiles, is excluded."""
    times = []
    for _ in range(1 + _REPETITIONS):
        started = time.perf_counter()
        run().block_until_ready()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


NOTES: Final = [
    f"Medians of {_REPETITIONS} repetitions with {_PICTURES:,} pictures. Reading includes normalisation, without shifts.",
    "MFLOP: convolutions and fully connected layers, counted by hand (benchmarks/operations.py), without the optimizer.",
    f"The share is relative to the GPU's rate for a product of bfloat16 matrices of {_SIDE:,} x {_SIDE:,}. float32 is computed in TF32.",
    "vgg-slim is compiled with XLA's defaults; the others with --xla_gpu_enable_triton_gemm=false, which reduces compilation to a minute.",
]


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows, in the order of the file: it has the matrix products of a GPU before its networks."""
    columns = [
        "task",
        "network",
        "precision",
        "batch",
        "training, pictures/s",
        "reading, pictures/s",
        "MFLOP per picture in training",
        "TFLOP/s",
        "share of matrix product",
        "GPU",
    ]
    lines = []
    ceilings: dict[str, float] = {}
    for row in rows:
        if "matrix" in row:
            rate = row["flops_per_s"]
            if row["matrix"] == "bfloat16":
                ceilings[row["gpu"]] = rate
            lines.append(["matrix product", "", row["matrix"], *[""] * 4, f"{rate / 1e12:.0f}", "", row["gpu"]])
            continue
        achieved = row["training_per_s"] * row["training_flops"]
        lines.append(
            [
                row["task"],
                row["preset"],
                row["precision"],
                f"{row['batch_size']:,}",
                f"{row['training_per_s']:,.0f}",
                f"{row['reading_per_s']:,.0f}",
                f"{row['training_flops'] / 1e6:,.0f}",
                f"{achieved / 1e12:.1f}",
                f"{achieved / ceilings[row['gpu']]:.1%}",
                row["gpu"],
            ]
        )
    return columns, lines


if __name__ == "__main__":
    typer.run(main)
