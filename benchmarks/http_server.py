"""The HTTP server beside the SavedModel called directly: rate, CPU time, latency, changes of version under load, and memory.

    uv run python -m benchmarks.http_server

Expected: for 64 clients with one picture per request, the server takes at most 1.4 times the CPU time of direct calls in batches of 64, and
answers at least half their rate although the load generator has the same two cores; the 99th percentile at half that rate is below 100 ms.
For one client, the median is at most 1.5 times that of a direct call. While 100 versions are pushed, no request fails, and each answer is
that of the version that it names. Over the last 75 of them, and over ten minutes of load, memory grows by less than 5 %. Twenty minutes on
2 cores, and two more if the small pipeline runs that make the models are still missing.
"""

import asyncio
import base64
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
import uvloop

from benchmarks import served
from benchmarks.http_load import Load, closed_loop, open_loop
from benchmarks.latency import in_new_process
from benchmarks.results import record
from benchmarks.server_process import Server, running
from components.base.features import CONFIDENCE
from components.serving.serving_dir import push
from pipeline.logs import load_tensorflow, silence
from pipeline.server.open_inference import SIGNATURE

NAME: Final = "digits-served"
_CLIENTS: Final = 64
_BATCH: Final = 64
_ROUNDS: Final = 3
_SECONDS: Final = 10.0  # of each load
_FOLDER: Final = Path("output/benchmarks/http_server")
_KEEP: Final = 2  # versions
_TOLERANCE: Final = 1e-4  # of a confidence: batches of different sizes add up in different orders


def _served(serving_dir: Path, *overrides: str) -> AbstractContextManager[Server]:
    changes = (f"name={NAME}", f"pusher.serving_dir={serving_dir}", "server.access_log=false", *overrides)
    return running("--config", "configs/digits.yaml", *(f"--set={change}" for change in changes))


def predict_requests(pictures: Sequence[bytes]) -> list[bytes]:
    """Returns a :predict request for each picture."""
    return [
        _post(f"/v1/models/{NAME}:predict", json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode())
        for picture in pictures
    ]


def infer_requests(pictures: Sequence[bytes]) -> list[bytes]:
    """Returns a request of the Open Inference Protocol for each picture. Its answer names the version."""
    requests = []
    for picture in pictures:
        tensor = {
            "name": "image",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(picture).decode()],
            "parameters": {"content_type": "base64"},
        }
        requests.append(_post(f"/v2/models/{NAME}/infer", json.dumps({"inputs": [tensor]}).encode()))
    return requests


def _post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def main(
    minutes: Annotated[float, typer.Option(min=0, help="of load, for the memory")] = 10,
    changes: Annotated[int, typer.Option(min=0, help="of the version under load")] = 100,
) -> None:
    model, pictures = served.pushed_model(), served.pictures(448)
    rows = [*speed(model, pictures)]
    if changes:
        rows += version_changes(model, pictures, changes)
    if minutes:
        rows += memory(pictures, minutes)
    record(
        "http_server",
        "The HTTP server, and the SavedModel called directly, on 100x30 PNGs",
        ["what", "figure", "direct", "ratio"],
        rows,
        [
            f"Medians of {_ROUNDS} rounds, each with direct calls and with a load of {_SECONDS:.0f} s by a generator on the same cores.",
            "Ratios are medians of the ratios in each round. The drift monitor is on, the access log is off.",
        ],
    )


def speed(model: Path, pictures: list[bytes]) -> list[list[str]]:
    """Returns the rows of rate, CPU time and latency."""
    requests = predict_requests(pictures)
    rounds = []
    folder = _FOLDER / "speed"
    shutil.rmtree(folder, ignore_errors=True)
    push(model, folder, _KEEP)
    with _served(folder) as server:
        load = uvloop.run(closed_loop(server.address, requests, _CLIENTS, _for(5)))  # warms up
        for _ in range(_ROUNDS):
            walls, cpus = in_new_process(model, pictures, _BATCH, 60, 2)
            singles, _ = in_new_process(model, pictures, 1, 500, 2)
            before = server.cpu_seconds
            load = uvloop.run(closed_loop(server.address, requests, _CLIENTS, _for(_SECONDS)))
            cpu = (server.cpu_seconds - before) / len(load.latencies)
            half = uvloop.run(open_loop(server.address, requests, load.rate / 2, _CLIENTS, _SECONDS))
            one = uvloop.run(closed_loop(server.address, requests, 1, _for(_SECONDS)))
            assert not load.failures + half.failures + one.failures
            rounds.append(
                (
                    (cpu, float(np.median(cpus)) / _BATCH),
                    (load.rate, _BATCH / float(np.median(walls))),
                    (_percentile(half, 99), None),
                    (_percentile(one, 50), float(np.median(singles))),
                )
            )
    names = (
        f"CPU time per picture, {_CLIENTS} clients",
        f"pictures per second, {_CLIENTS} clients",
        "99th percentile at half that rate",
        "median, one client",
    )
    rows = []
    for name, figures in zip(names, zip(*rounds, strict=True), strict=True):
        ours, direct = statistics.median(ours for ours, _ in figures), [direct for _, direct in figures if direct is not None]
        shown = (lambda value: f"{value:,.0f}") if "per second" in name else (lambda value: f"{1000 * value:.2f} ms")
        ratio = f"{statistics.median(ours / direct for ours, direct in figures if direct):.2f}" if direct else ""
        rows.append([name, shown(ours), shown(statistics.median(direct)) if direct else "", ratio])
    return rows


def version_changes(model: Path, pictures: list[bytes], changes: int) -> list[list[str]]:
    """Returns the rows of the changes of version under load: two models in turn, whose answers are known."""
    models, folder = (model, served.other_model()), _FOLDER / "changes"
    shutil.rmtree(folder, ignore_errors=True)
    pictures = pictures[:32]
    expected = [_confidences(directory, pictures) for directory in models]
    which = {push(models[0], folder, _KEEP).version: 0}
    seen: set[int] = set()
    done = False
    memory: list[float] = []  # after each change

    def check(number: int, body: bytes) -> bool:
        answer = json.loads(body)
        version = int(answer["model_version"])
        seen.add(version)
        (confidence,) = next(output["data"] for output in answer["outputs"] if output["name"] == CONFIDENCE)
        return abs(confidence - expected[which[version]][number]) < _TOLERANCE

    async def change(server: Server) -> Load:
        nonlocal done
        load = asyncio.create_task(closed_loop(server.address, infer_requests(pictures), 16, lambda seconds: not done, check))
        for number in range(1, changes + 1):
            pushed = (await asyncio.to_thread(push, models[number % 2], folder, _KEEP)).version
            which[pushed] = number % 2  # before the server can have loaded it
            while pushed not in seen and not load.done():
                await asyncio.sleep(0.05)
            memory.append(server.memory())
        done = True
        return await load

    with _served(folder, "server.poll_seconds=0.2") as server:
        load = uvloop.run(change(server))
    settled = len(memory) // 4  # until then, the allocator keeps more of what two versions beside each other need
    failed = f"{load.failures} of {len(load.latencies):,} requests failed or had the answer of another version"
    grown = f"{memory[-1]:.0f} MiB, {memory[-1] - memory[settled]:+.0f} MiB since change {settled + 1}"
    return [[f"{len(seen) - 1} changes of version under load", failed, "", ""], ["memory after them", grown, "", ""]]


def memory(pictures: list[bytes], minutes: float) -> list[list[str]]:
    """Returns the row of the memory under load, of the version that `speed` has pushed."""
    with _served(_FOLDER / "speed") as server:
        uvloop.run(closed_loop(server.address, predict_requests(pictures), _CLIENTS, _for(30)))
        before = server.memory()
        load = uvloop.run(closed_loop(server.address, predict_requests(pictures), _CLIENTS, _for(60 * minutes)))
        after = server.memory()
    grown = f"{after:.0f} MiB, {after - before:+.0f} MiB since half a minute after the start"
    return [[f"memory after {minutes:g} minutes of load, {len(load.latencies):,} requests", grown, "", ""]]


def _confidences(directory: Path, pictures: Sequence[bytes]) -> list[float]:
    load_tensorflow(with_keras=False)
    from components.serving.loaded import LoadedModel

    model = LoadedModel(directory)
    found = [float(model.call(SIGNATURE, [picture])[CONFIDENCE][0]) for picture in pictures]
    model.close()
    return found


def _for(seconds: float) -> Callable[[float], bool]:
    return lambda elapsed: elapsed < seconds


def _percentile(load: Load, percent: float) -> float:
    return float(np.percentile(load.latencies, percent))


if __name__ == "__main__":
    silence()
    typer.run(main)
