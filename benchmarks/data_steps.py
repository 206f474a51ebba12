"""How fast the data steps are, and whether time and memory keep step with the number of pictures.

    uv run python -m benchmarks.data_steps [SIZE …]

Expected: ExampleGen, StatisticsGen and Transform together do at least 3,000 pictures of 100x30 a second at 200,000 pictures; the time
a further picture takes is the same at every size; the peak memory at 200,000 is at most 1.3 times that at 20,000; a picture takes at
most 1.1 bytes a pixel value after Transform. The first run also draws the pictures, which takes about ten minutes on 2 cores.
"""

import io
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import tensorflow as tf
import typer
from PIL import Image

from benchmarks.prepared import DATA_STEPS
from benchmarks.results import record
from benchmarks.tasks import Task
from components.data.decoding import decode_picture
from components.data.record_check import Shard, check_record
from components.data.tfrecords import Record, read_records
from pipeline.logs import silence

SIZES: Final = (10_000, 20_000, 200_000)
_SAMPLE: Final = 512  # pictures
_ROUNDS: Final = 9


@dataclass(frozen=True)
class Measurement:
    """One run of the data steps in a process of its own.

    Attributes:
      size: pictures.
      seconds: by step.
      peak_bytes: resident, of the process.
      record_bytes: the mean length of a record after Transform, uncompressed.
    """

    size: int
    seconds: dict[str, float]
    peak_bytes: int
    record_bytes: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def row(self) -> list[str]:
        steps = [f"{self.seconds[step]:.1f} s" for step in DATA_STEPS]
        rate = f"{self.size / self.total:,.0f}"
        return [f"{self.size:,}", *steps, f"{self.total:.1f} s", rate, f"{self.peak_bytes / 2**20:,.0f} MiB", f"{self.record_bytes:,.0f}"]


def _task(size: int) -> Task:
    return Task(f"data-steps-{size}", "digits", size, "{train: 10, eval: 1, test: 1}", seed=13)


def measure(size: int) -> Measurement:
    """Runs the data steps on `size` pictures of configs/digits.yaml; draws them first if they are not there."""
    task = _task(size)
    config = task.config()
    folder = Path(config.root, config.name)
    shutil.rmtree(folder, ignore_errors=True)  # or TFX would reuse what an earlier run has left
    run = subprocess.run([sys.executable, "-m", "benchmarks.prepared", *task.options()], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    lengths = list(_lengths(Path(found["transformed"])))
    shutil.rmtree(folder)
    return Measurement(size, found["seconds"], found["peak_bytes"], sum(lengths) / len(lengths))


def _lengths(transformed: Path) -> Iterator[int]:
    for file in sorted(transformed.glob("Split-*/*")):
        for item in read_records(file):
            assert isinstance(item, Record), item
            yield len(item.data)


def floor(task: Task) -> str:
    """Says what of a further picture's time no arrangement of the steps would save: to check it, and to decode it for the model."""
    config, records = task.config(), task.records("train", _SAMPLE)
    pictures = [picture.encoded for picture in task.pictures("train", _SAMPLE)]
    spec, rules = config.captcha, config.data.picture_rules
    shard = Shard("train", "", "", len(records), "", "", None)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decode(images: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda image: decode_picture(image, spec), images, fn_output_signature=tf.uint8)

    check = _micros(lambda: [check_record(data, shard, spec, rules).example.SerializeToString() for data in records], len(records))
    pillow = _micros(lambda: [Image.open(io.BytesIO(data)).load() for data in pictures], len(pictures))
    transform = _micros(lambda: decode(tf.constant(pictures)), len(pictures))
    return (
        f"CPU time a picture of what no arrangement of the steps would save: {check:.0f} µs for its check in ExampleGen, of which "
        f"Pillow's decoding is {pillow:.0f}, and {transform:.0f} µs for TensorFlow's decoding in Transform (the least of {_ROUNDS} rounds)."
    )


def _micros(work: Callable[[], Any], count: int) -> float:
    def once() -> float:
        started = time.process_time()
        work()
        return (time.process_time() - started) / count * 1e6

    once()
    return min(once() for _ in range(_ROUNDS))  # the median would be no floor where the host is busy


def main(sizes: Annotated[list[int] | None, typer.Argument(help="Pictures of each run")] = None) -> None:
    measurements = [measure(size) for size in sizes or SIZES]
    notes = ["One run of each size, in a new process; nothing was cached, and the pictures were there already."]
    for before, after in itertools.pairwise(measurements):
        further = (after.total - before.total) / (after.size - before.size)
        notes.append(
            f"From {before.size:,} to {after.size:,} pictures: {further * 1e6:.0f} µs a further picture, "
            f"{after.peak_bytes / before.peak_bytes:.2f} times the peak memory, TensorFlow and TFX themselves included."
        )
    record(
        "data_steps",
        "The data steps: pictures of 100x30 in colour, one process",
        ["pictures", *DATA_STEPS, "together", "pictures a second", "peak memory", "bytes a picture after Transform"],
        [measurement.row() for measurement in measurements],
        [*notes, floor(_task(measurements[0].size))],
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
