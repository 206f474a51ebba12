"""Latency and throughput of the served model: one picture at a time on one core, and batches of 64 on one and two cores.

    uv run python -m benchmarks.latency

Expected: one encoded picture through `serving_default` takes at most 3 ms in the median and at most 6 ms in 99 of 100 calls on one core.
Batches of 64 reach 1,500 pictures per second or more on two cores. One minute on 2 cores, and one more if the small pipeline run that makes
the model is still missing.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import served
from benchmarks.results import record
from components.base.features import VALID
from pipeline.logs import load_tensorflow, silence

SINGLE_CALLS: Final = 3_000
BATCH: Final = 64
BATCH_CALLS: Final = 150
_WARM_UP: Final = 50  # calls; the first calls trace, allocate memory and pack the weights


def measure(model: Path, pictures: list[bytes], size: int, calls: int, cores: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Calls the model with `size` pictures at a time on `cores` cores. Run it in a new process: cores and threads can be set only once.

    Returns:
      Two arrays, float64 [calls], in seconds: wall-clock time and CPU time of each call.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    silence()
    load_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    loaded = tf.saved_model.load(str(model))
    serve = loaded.signatures["serving_default"]
    batches = [tf.constant(np.resize(np.roll(np.array(pictures, object), -size * number), size)) for number in range(len(pictures) // size)]
    walls, cpus = [], []
    for call in range(_WARM_UP + calls):
        batch = batches[call % len(batches)]
        cpu, wall = time.process_time(), time.perf_counter()
        answer = serve(image=batch)
        answer[VALID].numpy()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    assert answer[VALID].numpy().all()
    return np.array(walls[_WARM_UP:]), np.array(cpus[_WARM_UP:])


def in_new_process(model: Path, pictures: list[bytes], size: int, calls: int, cores: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Returns what `measure` returns, from a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, model, pictures, size, calls, cores).result()


def main() -> None:
    model, pictures = served.pushed_model(), served.pictures(448)
    rows = []
    for size, calls, cores in ((1, SINGLE_CALLS, 1), (BATCH, BATCH_CALLS, 1), (BATCH, BATCH_CALLS, 2)):
        walls, cpus = in_new_process(model, pictures, size, calls, cores)
        milliseconds = (*np.percentile(walls, (50, 99)), np.median(cpus))
        rows.append([str(size), str(cores), *(f"{1000 * value:.2f} ms" for value in milliseconds), f"{size / np.median(walls):,.0f}"])
    record(
        "latency",
        "Reading 100x30 PNGs with the SavedModel through serving_default",
        ["pictures per call", "cores", "median", "99th percentile", "median CPU time per call", "pictures per second"],
        rows,
        [f"{SINGLE_CALLS:,} calls with one picture, {BATCH_CALLS} with {BATCH}, after {_WARM_UP} excluded calls; one process per row."],
    )


if __name__ == "__main__":
    main()
