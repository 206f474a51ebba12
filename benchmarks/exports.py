"""The exports of a model, compared with its SavedModel: latency, throughput, sizes, and the start of a command.

    uv run python -m benchmarks.exports

Expected: the ONNX file reads one picture on one core in at most 0.6 of the SavedModel's time in the median, and captcha-read answers within
0.5 s from its start. Each export passes its proof on 2,000 test pictures. Five minutes on 2 cores, and five more if the pipeline run that
makes the model is still missing.
"""

import base64
import importlib.metadata
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import latency, served, start_up
from benchmarks.results import record
from benchmarks.tasks import Task, command
from captcha_read.manifest import MANIFEST
from pipeline.exporting.browser import opened
from pipeline.exporting.formats import FORMATS

# Enough test pictures for the proof of 8-bit exports, which may lose 0.1 percentage points.
_TASK: Final = Task("digits-exported", "digits", 12_000, "{train: 4, eval: 1, test: 1}", seed=3)
_WARM_UP: Final = 50  # calls
# By format: how Python starts the command that reads one picture, and the packages that it needs. Formats without a command are missing.
_READERS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "onnx": (("-m", "captcha_read.cli"), ("numpy", "onnxruntime", "pillow")),
    "litert": ((), ("ai-edge-litert", "pillow")),
    "openvino": ((), ("openvino", "pillow")),
}
# Reads pictures with the page of the HTML export, and returns the time of each call in milliseconds, without that of its encoding here.
_IN_PAGE: Final = """async ([encoded, size, calls]) => {
  const pictures = encoded.map((data) => Uint8Array.from(atob(data), (character) => character.charCodeAt(0)));
  const walls = [];
  for (let call = 0; call < calls; call++) {
    const started = performance.now();
    for (let number = 0; number < size; number++) await read(pictures[(call * size + number) % pictures.length]);
    walls.push(performance.now() - started);
  }
  return walls;
}"""


def measure(name: str, folder: Path, pictures: list[bytes], size: int, calls: int, cores: int) -> npt.NDArray:
    """Reads `size` encoded pictures at a time with an export on `cores` cores, from bytes to text. Run it in a new process.

    Returns:
      float64 [calls], wall-clock time in seconds.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    file = folder / FORMATS[name].file
    if name == "html":
        with opened(file) as page:
            encoded = [base64.b64encode(data).decode() for data in pictures]
            return np.array(page.evaluate(_IN_PAGE, [encoded, size, _WARM_UP + calls])[_WARM_UP:]) / 1000
    walls = []
    with FORMATS[name].reader(file) as read:
        for call in range(_WARM_UP + calls):
            batch = [pictures[(call * size + number) % len(pictures)] for number in range(size)]
            started = time.perf_counter()
            found = read(batch)
            walls.append(time.perf_counter() - started)
            assert not any(reading.error for reading, _ in found)
    return np.array(walls[_WARM_UP:])


def _in_new_process(name: str, folder: Path, pictures: list[bytes], size: int, calls: int, cores: int) -> npt.NDArray:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, folder, pictures, size, calls, cores).result()


def installed_size(names: Iterable[str]) -> int:
    """Returns the size in bytes of installed distributions and of all that they need."""
    missing, found, size = list(names), set[str](), 0
    while missing:
        name = re.sub(r"[-_.]+", "-", missing.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        size += sum(path.stat().st_size for file in distribution.files or () if (path := Path(str(file.locate()))).is_file())
        missing += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in distribution.requires or () if "extra ==" not in need]
    return size


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"


def _cells(single: npt.NDArray, batches: npt.NDArray, size: int, installed: Iterable[str], start: str) -> list[str]:
    milliseconds = [f"{1000 * value:.2f} ms" for value in np.percentile(single, (50, 99))]
    return [*milliseconds, f"{latency.BATCH / np.median(batches):,.0f}", _megabytes(size), _megabytes(installed_size(installed)), start]


def main() -> None:
    model = served.pushed_by(_TASK)
    pictures = [picture.encoded for picture in _TASK.pictures("test", 448)]
    calls = ((1, latency.SINGLE_CALLS, 1), (latency.BATCH, latency.BATCH_CALLS, 2))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = folder / "picture.png"
        picture.write_bytes(pictures[0])
        shutil.copytree(model, folder / "model")  # `predict` finds no export for it, because its name is no version
        predict = ("-c", "from pipeline.cli.main import main; main()", "predict", *_TASK.options(), "--model", str(folder / "model"))
        single, batches = (latency.in_new_process(model, pictures, *each)[0] for each in calls)
        size = sum(path.stat().st_size for path in (model / "saved_model.pb", *(model / "variables").iterdir()))
        start, *_ = start_up.measure(sys.executable, *predict, str(picture))
        rows = [["SavedModel", *_cells(single, batches, size, ["tensorflow"], start)]]
        for name, form in FORMATS.items():
            for int8 in (False, True) if form.write_int8 else (False,):
                out = folder / f"{name}{int8}"
                command("export", *_TASK.options(), "--model", str(model), "--format", name, "--out", str(out), *(["--int8"] * int8))
                single, batches = (_in_new_process(name, out, pictures, *each) for each in calls)
                words, installed = _READERS.get(name, ((), ()))
                start = "–"
                if words:
                    start, *_ = start_up.measure(sys.executable, *words, str(out / form.file), str(picture))
                size = sum(path.stat().st_size for path in out.iterdir() if path.name != MANIFEST)
                rows.append([f"{name}, 8 bits" if int8 else name, *_cells(single, batches, size, installed, start)])
    record(
        "exports",
        "A model's exports and its SavedModel, reading 100x30 PNGs from bytes to text",
        ["model", "median, one core", "99th percentile", "pictures per second, two cores", "model file", "installed packages", "command"],
        rows,
        [
            f"{latency.SINGLE_CALLS:,} calls with one picture on one core, {latency.BATCH_CALLS} with {latency.BATCH} on two.",
            f"Command: a process that reads one picture, median of {start_up.RUNS} runs: captcha-pipeline predict; for ONNX captcha-read.",
            "Installed packages: the library that runs the model, and all packages that it needs; the page needs a browser.",
            "html: the page in headless Chromium, which reads the pictures of a batch one by one, in all its processes on these cores.",
        ],
    )


if __name__ == "__main__":
    main()
