"""Kills a retraining deployment with SIGKILL at random moments, and compares its final state with a deployment that was never killed.

    uv run python -m benchmarks.random_kills [--kills 100] [--seed 1]

The deployment ingests new pictures, retrains with a warm start, and rolls back in every third round: `data ingest`, `retrain`, `rollback`.
Each command is killed at random moments and repeated until it completes.

Expected, and asserted: every repeated command completes. A reader that watches the serving folder all the time sees complete versions only.
In the end, spans, served models and decisions equal those of the deployment that was not killed. One hour on 2 cores.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.results import record
from components.base.features import WEIGHTS_FILE
from components.data.drawing.painting import CaptchaPainter, SynthPlan
from components.data.records import encode_png
from components.data.spans import list_spans
from components.serving import serving_dir
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs.outcomes import retrainings

_TINY: Final = Path(__file__).parents[1] / "configs" / "tiny.yaml"
_CHANGES: Final = (
    "trainer.epochs=2",
    "trainer.warm_start={epochs: 1}",
    "evaluator.min_sequence_accuracy=0",
    "evaluator.max_regression=1",
    "evaluator.max_slice_regression=1",
    "evaluator.confidence=0.999999",
    "data.window=3",
    "pusher.keep=4",
)
_PICTURES: Final = 300  # per round
_A_ROLLBACK: Final = 3  # rounds per rollback
_A_COMMAND: Final = 6  # kills per command, then it may complete: on a busy machine chance alone might never let it


@dataclass(frozen=True)
class Command:
    """A command line, and a check whether a killed command was already done. Commands without a check can be repeated safely."""

    words: list[str]
    is_done: Callable[[], bool] = lambda: False

    @property
    def name(self) -> str:
        return self.words[1] if self.words[0] == "data" else self.words[0]


@dataclass
class Deployment:
    """A folder with an inbox, data and output."""

    folder: Path

    @property
    def options(self) -> list[str]:
        """The command-line options for this deployment."""
        changes = (f"root={self.folder}/output", f"data.root={self.folder}/data", *_CHANGES)
        return ["--config", str(_TINY), *(f"--set={change}" for change in changes)]

    @property
    def config(self) -> Config:
        return load_config(_TINY, [option.removeprefix("--set=") for option in self.options[2:]])

    @property
    def versions(self) -> list[serving_dir.Pushed]:
        """The pushed versions, the newest first."""
        return serving_dir.versions(self.config.serving_dir)

    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        """Starts `captcha-pipeline` in a new session, with its output in a pipe."""
        program = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]
        return subprocess.Popen(
            [*program, *words, *self.options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def complete(self, command: Command) -> float:
        """Runs a command to its end, and returns the seconds that it took."""
        started = time.monotonic()
        with self.start(command.words) as process:
            printed, _ = process.communicate()
        assert process.returncode == 0, f"{command.words} exited with code {process.returncode}:\n{printed}"
        return time.monotonic() - started

    def kill(self, command: Command, after: float) -> bool:
        """Starts a command, and kills it and its processes after `after` seconds. Returns whether it was still running."""
        with self.start(command.words) as process:
            try:
                process.communicate(timeout=after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return True
        assert process.returncode == 0, f"{command.words} exited with code {process.returncode}."
        return False

    def drop_pictures(self, number: int) -> None:
        """Writes the pictures of a round into the inbox."""
        inbox = self.folder / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        config = self.config
        drawn = config.synth.model_copy(update={"seed": number})
        painter = CaptchaPainter(SynthPlan(config.captcha, drawn, config.data.splits.model_dump()))
        for index in range(_PICTURES):
            captcha = painter.paint(index)
            (inbox / f"{captcha.label}_{number}_{index}.png").write_bytes(encode_png(captcha.image))

    def commands(self, number: int) -> "Iterator[Command]":
        """Yields the commands of a round in order. Each is computed after the previous commands are done."""
        yield Command(["data", "ingest", str(self.folder / "inbox"), "--pattern", "{label}_*.png"])
        yield Command(["retrain"])
        if number % _A_ROLLBACK == 0:
            chosen = self.versions[1].version
            yield Command(["rollback", str(chosen)], lambda: self.versions[0].copy_of == chosen)

    def state(self) -> dict[str, Any]:
        """Returns the state of the deployment, without anything that contains a time."""
        versions = self.versions
        return {
            "spans": [span.checksum for span in list_spans(self.config.data.root)],
            "served": [(version.fingerprint, _weights(version.path)) for version in versions],
            "withdrawn": sorted(serving_dir.withdrawn(self.config.serving_dir)),
            "decisions": [it.decision for it in retrainings(self.config) if it.decision != "stopped"],
            "left over": sorted(path.name for folder in (self.config.data.root, self.config.serving_dir) for path in _half(Path(folder))),
        }


def _half(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".") and path.is_dir()]


def _weights(version: Path) -> str:
    return hashlib.sha256((version / "assets.extra" / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]


class Reader:
    """Watches a serving folder: compares the files of each version when it appears with its files a second later."""

    def __init__(self, serving: Path):
        self._serving = serving
        self._stop = threading.Event()
        self._seen: dict[str, tuple[float, dict[str, bytes]]] = {}
        self._thread = threading.Thread(target=self._look)
        self.versions: set[str] = set()
        self.halves: set[str] = set()

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            for path in self._serving.iterdir() if self._serving.is_dir() else ():
                if not path.name.isdigit():
                    continue
                if path.name not in self.versions:
                    self.versions.add(path.name)
                    self._seen[path.name] = (time.monotonic(), contents(path))
                elif (
                    path.name in self._seen
                    and time.monotonic() > self._seen[path.name][0] + 1
                    and self._seen.pop(path.name)[1] != contents(path)
                ):
                    self.halves.add(path.name)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the SHA-256 of each file, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files}


@dataclass
class Kills:
    """Counts how often each kind of command was killed, and has the seconds that each takes without a kill."""

    wanted: int
    moments: random.Random
    seconds: dict[str, float]
    count: Counter[str]

    def disturb(self, deployment: Deployment, command: Command) -> None:
        """Kills a command at random moments and repeats it, until it completes or has been killed often enough."""
        for _ in range(min(_A_COMMAND, self.wanted - self.count.total())):
            if command.is_done():
                break
            # The limit is above the duration, else a command that keeps no progress would hardly ever complete.
            if not deployment.kill(command, self.moments.uniform(0, 1.3 * self.seconds[command.name])):
                return
            self.count[command.name] += 1
            deployment.complete(Command(["runs"]))
        if not command.is_done():
            deployment.complete(command)


def main(
    kills: Annotated[int, typer.Option(min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 1,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disturbed, quiet = Deployment(Path(folder, "disturbed")), Deployment(Path(folder, "quiet"))
        done = Kills(kills, random.Random(seed), {}, Counter())
        rounds = 0
        with Reader(Path(disturbed.config.serving_dir)) as reader:
            while done.count.total() < kills:
                rounds += 1
                disturbed.drop_pictures(rounds)
                for command in disturbed.commands(rounds):
                    if command.name in done.seconds:
                        done.disturb(disturbed, command)
                    else:
                        done.seconds[command.name] = disturbed.complete(command)
                print(f"round {rounds}: {done.count.total()} kills", flush=True)
        for number in range(1, rounds + 1):
            quiet.drop_pictures(number)
            for command in quiet.commands(number):
                quiet.complete(command)
        found, expected = disturbed.state(), quiet.state()
        assert found == expected, f"killed: {found}\nnot killed: {expected}"
        assert not reader.halves, reader.halves
    record(
        "random_kills",
        f"{kills} SIGKILLs at random moments of a deployment that ingests pictures, retrains and rolls back",
        ["command", "seconds without a kill", "kills"],
        [[name, f"{seconds:.1f}", str(done.count[name])] for name, seconds in done.seconds.items()],
        [
            (
                f"{rounds} rounds. Every command completed when it was repeated. {len(reader.versions)} versions appeared in the serving "
                "folder, and a reader that looked every 5 ms saw each version complete from the start."
            ),
            (
                f"The final state equals that of the same rounds without kills: {len(expected['spans'])} spans by the "
                f"SHA-256 of their manifests, {len(expected['served'])} served versions by fingerprint and weights, the withdrawn "
                "models, and every decision."
            ),
            f"Seed of the moments: {seed}.",
        ],
    )


if __name__ == "__main__":
    typer.run(main)
