"""Speed of the data steps on a local Flink cluster by parallelism, and a check that each record comes out exactly once.

    make flink-bench

Expected: on every engine, the examples and Transform's output are the same records as in memory; no record is lost or duplicated. On 2
cores more workers gain nothing: each job has to start its Python workers, and each record passes through two processes.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.prepared import DATA_STEPS
from benchmarks.results import record
from benchmarks.tasks import Task, command
from components.base.features import LABEL_IDS, PIXELS
from components.data.example_proto import Example
from components.data.spans import ShardFile, list_spans
from components.data.tfrecords import Record, read_records
from deploy.flink.cluster import Cluster, JobServerOption, ask, end
from deploy.flink.job_server import job_server as get_job_server

TASK: Final = Task("engines", "digits", 20_000, "{train: 10, eval: 1, test: 1}", seed=17, changes=("synth.shard_size=1000",))
PARALLELISM: Final = (1, 2, 4)
_DRAWN: Final = 100_000


def data_steps(beam: dict[str, Any]) -> tuple[dict[str, float], Counter[str]]:
    """Runs the data steps. Returns the seconds of each step, and by hash how often each record came out."""
    config = TASK.config()
    folder = Path(config.root, config.name)
    shutil.rmtree(folder, ignore_errors=True)  # else TFX would reuse the output of another engine
    program = [sys.executable, "-m", "benchmarks.prepared", *TASK.options(f"beam={json.dumps(beam)}")]
    found = json.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    came_out = Counter(_hash(item) for path in Path(folder).rglob("Split-*/*-of-*") for item in read_records(str(path)))
    return found["seconds"], came_out


def _hash(item: Any) -> str:
    """Hashes a whole record, except for the mean of all pixels, which depends on the order of their summation."""
    assert isinstance(item, Record), item
    feature = Example.FromString(item.data).features.feature
    if PIXELS not in feature:
        return hashlib.sha256(item.data).hexdigest()
    return hashlib.sha256(b"".join(feature[name].SerializeToString() for name in (PIXELS, LABEL_IDS))).hexdigest()


def draw(folder: Path, *options: str) -> tuple[float, tuple[ShardFile, ...]]:
    """Draws a span. Returns the seconds, and the files that its manifest names, with their checksums."""
    started = time.monotonic()
    count = ("--set", f"data.root={folder}", "--set", "synth.shard_size=4000", "--count", str(_DRAWN))
    command("data", "synth", *TASK.options(), *count, *options)
    (span,) = list_spans(folder)
    return time.monotonic() - started, span.manifest.files


def main(
    distribution: Annotated[Path, typer.Argument(help="The folder with Flink's lib/.", resolve_path=True)],
    release: Annotated[str, typer.Argument(help="Release of that Flink, such as 1.20.")],
    job_server: JobServerOption = None,
) -> None:
    jar = job_server or get_job_server(release)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(distribution, jar, Path(folder, "flink"))
        cluster.up()
        try:
            rows, notes = measure(cluster, Path(folder))
        finally:
            end(cluster.folder)
    columns = ["engine", *DATA_STEPS, "total", "pictures per second", "records", "lost", "duplicated"]
    record("engines", f"Data steps on a local Flink cluster: {TASK.count:,} colour pictures of 100x30", columns, rows, notes)


def measure(cluster: Cluster, folder: Path) -> tuple[list[list[str]], list[str]]:
    """Returns one row per engine, and the notes under the table."""
    rows: list[list[str]] = []
    version = ask("/overview")["flink-version"]
    expected: Counter[str] = Counter()
    engines = {"in memory": {"runner": "FnApiRunner"}} | {f"Flink {version}, parallelism {n}": cluster.beam(n) for n in PARALLELISM}
    for name, beam in engines.items():
        seconds, came_out = data_steps(beam)
        expected = expected or came_out
        total = sum(seconds.values())
        lost, twice = (expected - came_out).total(), (came_out - expected).total()
        times = [f"{seconds[step]:.1f} s" for step in DATA_STEPS]
        rows.append([name, *times, f"{total:.1f} s", f"{TASK.count / total:,.0f}", f"{came_out.total():,}", str(lost), str(twice)])
        print(rows[-1], flush=True)
    here, ours = draw(folder / "here")
    there, theirs = draw(folder / "there", "--set", f"beam={json.dumps(cluster.beam(4))}")
    assert ours == theirs
    drawing = (
        f"`data synth` of {_DRAWN:,} pictures: {_DRAWN / here:,.0f} pictures per second in local processes, {_DRAWN / there:,.0f} on Flink "
        "with a parallelism of 4, including the check of the engine. All files have the same SHA-256."
    )
    return rows, ["Two TaskManagers with two slots each and one pool of Python workers, all on this machine.", drawing]


if __name__ == "__main__":
    typer.run(main)
