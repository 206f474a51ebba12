"""Kills a retraining deployment with SIGKILL at random moments, and compares it in the end with one that was never killed.

    uv run python -m benchmarks.random_kills [--kills 100] [--seed 1]

The deployment takes in new pictures, retrains with a warm start, and every third round rolls back: `data ingest`, `retrain`, `rollback`.
Each command is killed at random moments and given again, until it gets through.

Expected, and asserted: every command that is given again completes; a reader who looks at the serving folder the whole time sees whole
versions only; and in the end spans, served models and decisions are those of the deployment that was not killed. An hour on 2 cores.
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
from components.data.records import encode_png
from components.data.sources.painting import CaptchaPainter, SynthPlan
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
_PICTURES: Final = 300  # a round
_A_ROLLBACK: Final = 3  # rounds
_A_COMMAND: Final = 6  # kills, then it is let through: on a busy machine chance alone might never do so


@dataclass(frozen=True)
class Command:
    """A command line, and what tells that a killed one had done its work; to give the others again does nothing twice."""

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
        changes = (f"root={self.folder}/output", f"data.root={self.folder}/data", *_CHANGES)
        return ["--config", str(_TINY), *(f"--set={change}" for change in changes)]

    @property
    def config(self) -> Config:
        return load_config(_TINY, [option.removeprefix("--set=") for option in self.options[2:]])

    @property
    def versions(self) -> list[serving_dir.Pushed]:
        return serving_dir.versions(self.config.serving_dir)

    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        program = [sys.executable, "-c", "from pipeline.cli.main import main; main()"]
        return subprocess.Popen(
            [*program, *words, *self.options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def complete(self, command: Command) -> float:
        """Runs a command to its end, and returns how many seconds that took."""
        started = time.monotonic()
        with self.start(command.words) as process:
            printed, _ = process.communicate()
        assert process.returncode == 0, f"{command.words} ended with {process.returncode}:\n{printed}"
        return time.monotonic() - started

    def kill(self, command: Command, after: float) -> bool:
        """Starts a command, kills it and its processes after so many seconds, and returns whether it was still at work."""
        with self.start(command.words) as process:
            try:
                process.communicate(timeout=after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return True
        assert process.returncode == 0, f"{command.words} ended with {process.returncode}"
        return False

    def drop_pictures(self, number: int) -> None:
        """Puts the pictures of a round into the inbox."""
        inbox = self.folder / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        config = self.config
        drawn = config.synth.model_copy(update={"seed": number})
        painter = CaptchaPainter(SynthPlan(config.captcha, drawn, config.data.splits.model_dump()))
        for index in range(_PICTURES):
            captcha = painter.paint(index)
            (inbox / f"{captcha.label}_{number}_{index}.png").write_bytes(encode_png(captcha.image))

    def commands(self, number: int) -> "Iterator[Command]":
        """Yields the commands of a round, in their order; each is worked out when those before it are done."""
        yield Command(["data", "ingest", str(self.folder / "inbox"), "--pattern", "{label}_*.png"])
        yield Command(["retrain"])
        if number % _A_ROLLBACK == 0:
            chosen = self.versions[1].version
            yield Command(["rollback", str(chosen)], lambda: self.versions[0].copy_of == chosen)

    def state(self) -> dict[str, Any]:
        """What a deployment has come to, less all that has a time in it."""
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
    """Looks at a serving folder the whole time: at each version when it appears, and again a second later."""

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
    """Returns by name a digest of each file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files}


@dataclass
class Kills:
    """How often each kind of command was killed, and how long one takes that is not."""

    wanted: int
    moments: random.Random
    seconds: dict[str, float]
    count: Counter[str]

    def disturb(self, deployment: Deployment, command: Command) -> None:
        """Kills a command at random moments and gives it again, until it gets through or has been killed often enough."""
        for _ in range(min(_A_COMMAND, self.wanted - self.count.total())):
            if command.is_done():
                break
            # Above its time, or a command that keeps nothing when it is killed would hardly ever get through.
            if not deployment.kill(command, self.moments.uniform(0, 1.3 * self.seconds[command.name])):
                return
            self.count[command.name] += 1
            deployment.complete(Command(["runs"]))
        if not command.is_done():
            deployment.complete(command)


def main(
    kills: Annotated[int, typer.Option(min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
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
        f"{kills} SIGKILLs at random moments of a deployment that takes in pictures, retrains and rolls back",
        ["command", "seconds of one that is not killed", "killed"],
        [[name, f"{seconds:.1f}", str(done.count[name])] for name, seconds in done.seconds.items()],
        [
            (
                f"{rounds} rounds. Every command got through when it was given again. {len(reader.versions)} versions came to the serving "
                "folder, and a reader that looked every 5 ms saw each whole from the first."
            ),
            (
                f"In the end the deployment was that of the same rounds without kills: {len(expected['spans'])} spans by the "
                f"SHA-256 of their manifests, {len(expected['served'])} served versions by fingerprint and weights, the withdrawn "
                "models, and every decision."
            ),
            f"Moments: seed {seed}.",
        ],
    )


if __name__ == "__main__":
    typer.run(main)
