"""Speed of the data steps, and how their time and memory grow with the number of pictures.

    uv run python -m benchmarks.data_steps [SIZE …]

Expected: at 200,000 pictures of 100x30, ExampleGen, StatisticsGen and Transform together process at least 3,000 pictures per second. The
time per additional picture is the same at every size. Peak memory at 200,000 pictures is at most 1.3 times that at 20,000. After Transform
a picture takes at most 1.1 bytes per pixel value. The first run also draws the pictures, which takes about ten minutes on 2 cores.
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
    """One run of the data steps in its own process.

    Attributes:
      size: number of pictures.
      seconds: duration of each step.
      peak_bytes: peak resident memory of the process.
      record_bytes: mean length of a record after Transform, uncompressed.
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
    """Runs the data steps on `size` pictures of configs/digits.yaml. Draws them first if they are missing."""
    task = _task(size)
    config = task.config()
    folder = Path(config.root, config.name)
    shutil.rmtree(folder, ignore_errors=True)  # else TFX would reuse the output of an earlier run
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
    """Returns a note on the CPU time per picture that every arrangement of the steps needs: checking and decoding the picture."""
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
        f"CPU time per picture that every arrangement of the steps needs: {check:.0f} µs for the check in ExampleGen, including "
        f"{pillow:.0f} µs for Pillow's decoding, and {transform:.0f} µs for TensorFlow's decoding in Transform (least of {_ROUNDS} rounds)."
    )


def _micros(work: Callable[[], Any], count: int) -> float:
    def once() -> float:
        started = time.process_time()
        work()
        return (time.process_time() - started) / count * 1e6

    once()
    return min(once() for _ in range(_ROUNDS))  # on a busy host the median would overstate the floor


def main(sizes: Annotated[list[int] | None, typer.Argument(help="Number of pictures of each run")] = None) -> None:
    measurements = [measure(size) for size in sizes or SIZES]
    notes = ["One run per size, in a new process and without cached output. The pictures were drawn before."]
    for before, after in itertools.pairwise(measurements):
        further = (after.total - before.total) / (after.size - before.size)
        notes.append(
            f"From {before.size:,} to {after.size:,} pictures: {further * 1e6:.0f} µs per additional picture, "
            f"{after.peak_bytes / before.peak_bytes:.2f} times the peak memory, including TensorFlow and TFX themselves."
        )
    record(
        "data_steps",
        "Data steps in one process: colour pictures of 100x30",
        ["pictures", *DATA_STEPS, "total", "pictures per second", "peak memory", "bytes per picture after Transform"],
        [measurement.row() for measurement in measurements],
        [*notes, floor(_task(measurements[0].size))],
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
