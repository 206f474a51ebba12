"""Pictures to label, and `captcha-pipeline label` in a process of its own."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.data.drawing.painting import SynthPlan, painter
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from tests.support.paths import ROOT, TINY

_READY_SECONDS = 120


def options(folder: Path, *settings: str) -> list[str]:
    """Returns the settings of a pipeline below a folder, for tiny pictures."""
    return [f"root={folder / 'output'}", f"data.root={folder / 'data'}", *settings]


def config(folder: Path, *settings: str) -> Config:
    """Returns the configuration of a pipeline below a folder, for tiny pictures."""
    return load_config(TINY, options(folder, *settings))


def draw(folder: Path, count: int, seed: int = 5) -> dict[str, str]:
    """Draws tiny pictures as PNG files; returns their labels by file name."""
    settings = load_config(TINY)
    plan = SynthPlan(settings.captcha, settings.synth.model_copy(update={"seed": seed}), settings.data.splits.model_dump())
    brush, labels = painter(plan), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        captcha = brush.paint(number)
        captcha.image.save(folder / f"{number:04d}.png")
        labels[f"{number:04d}.png"] = captcha.label
    return labels


@dataclass
class Labelling:
    """A process of `captcha-pipeline label`. `log` is the file with what it prints."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str

    def kill(self) -> None:
        """Kills the process, which can do nothing about it."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Ends the process; returns its exit code and all that it has printed."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, self.log.read_text()


@contextlib.contextmanager
def labelling(home: Path, pictures: Path, *arguments: str, port: int = 0, settings: tuple[str, ...] = ()) -> Iterator[Labelling]:
    """Runs `captcha-pipeline label` during the block; kills it if it still runs then."""
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "label", str(pictures), f"--config={TINY}"]
    command += [f"--port={port}", *arguments, *(f"--set={option}" for option in options(home, *settings))]
    home.mkdir(parents=True, exist_ok=True)
    log = home / "label.log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True) as process:
        try:
            end = time.monotonic() + _READY_SECONDS
            while not (found := re.search(r"(http://\S+/) and press", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield Labelling(process, log, found[1])
        finally:
            process.kill()
