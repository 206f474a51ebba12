"""Kills a fit in the middle of its first, its middle and its last epoch, and resumes each.

    uv run python -m benchmarks.resume --config configs/digits.yaml

Expected: each fit repeats less than one epoch, and ends with the weights of an undisturbed fit, bit by bit on a CPU. The times of the
undisturbed fit determine when to kill, so epochs must be long compared with the start of a process.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from benchmarks.results import record
from components.base.features import HISTORY_FILE, WEIGHTS_FILE
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.logs import load_tensorflow, silence

if TYPE_CHECKING:
    from benchmarks.prepared import Prepared


@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of a fit: its history, the bytes of its weights, and the seconds from its start to the end of the first epoch."""

    history: list[dict[str, float]]
    weights: bytes
    first_epoch_after: float

    @property
    def accuracy(self) -> float:
        """The full-sequence accuracy on the eval split of the exported weights."""
        from components.training.checkpoint import best_epoch

        return self.history[best_epoch(self.history, chooses=True) - 1]["val_sequence_accuracy"]


def start(config: Config, data: "Prepared", folder: Path) -> subprocess.Popen[str]:
    """Starts the Trainer in its own process."""
    from tfx.components.trainer.fn_args_utils import FnArgs

    from components.training.worker import write_fn_args

    (folder / "logs").mkdir(parents=True, exist_ok=True)
    arguments = FnArgs(
        train_files=data.files("train"),
        eval_files=data.files("eval"),
        transform_output=data.transform_graph,
        serving_model_dir=str(folder / "model"),
        model_run_dir=str(folder / "logs"),
        custom_config={
            "spec": config.captcha.model_dump_json(),
            "trainer": config.trainer.model_dump(),
            "max_pixels": config.data.max_pixels,
            "wrong_size": config.data.wrong_size,
            "background": config.data.background,
            "checkpoint_dir": str(folder / "checkpoints"),
            "log_dir": str(folder / "tensorboard"),
            "recipe": "resume",
        },
    )
    write_fn_args(arguments, folder / "fn_args.json")
    command = [sys.executable, "-u", "-m", "components.training.worker", str(folder / "fn_args.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str], folder: Path) -> tuple[Fit, str]:
    """Waits for a fit. Returns its result and its output.

    Raises:
      SystemExit: the fit failed.
    """
    begun, first, lines = time.monotonic(), 0.0, []
    assert process.stdout is not None
    for line in process.stdout:
        first = first or time.monotonic() - begun
        lines.append(line)
    if process.wait():
        raise SystemExit(f"The fit in {folder} failed: {''.join(lines)}")
    history = json.loads((folder / "logs" / HISTORY_FILE).read_text())
    return Fit(history, (folder / "model" / "assets.extra" / WEIGHTS_FILE).read_bytes(), first), "".join(lines)


def kill(process: subprocess.Popen[str], epoch: int, whole: Fit) -> None:
    """Kills a fit in the middle of an epoch, according to the times of the undisturbed fit `whole`."""
    assert process.stdout is not None
    half = whole.history[epoch - 1]["seconds"] / 2
    if epoch == 1:
        time.sleep(whole.first_epoch_after - half)
    else:
        for line in process.stdout:
            if line.startswith(f"epoch {epoch - 1}/"):
                break
        time.sleep(half)
    process.kill()
    process.communicate()


def main(config: ConfigOption, overrides: SetOption = None) -> None:
    load_tensorflow()
    from benchmarks.prepared import prepare

    settings = load_config(config, overrides)
    data = prepare(settings)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        whole, _ = finish(start(settings, data, Path(root, "whole")), Path(root, "whole"))
        epochs = len(whole.history)
        rows.append(["not killed", "", f"{whole.accuracy:.2%}", "", ""])
        for epoch in (1, (epochs + 1) // 2, epochs):
            folder = Path(root, f"killed-{epoch}")
            kill(start(settings, data, folder), epoch, whole)
            done = max((int(path.name.split("-")[1]) for path in folder.glob("checkpoints/*/epoch-*")), default=0)
            if done != epoch - 1:
                raise SystemExit(
                    f"The kill was planned for epoch {epoch} but came after epoch {done}: epochs are too short, or the machine is too busy."
                )
            fit, printed = finish(start(settings, data, folder), folder)
            assert done == 0 or f"resuming after epoch {done} " in printed, printed
            same = [row | {"seconds": 0} for row in fit.history] == [row | {"seconds": 0} for row in whole.history]
            rows.append(
                [
                    f"in epoch {epoch}",
                    f"after epoch {done}",
                    f"{fit.accuracy:.2%}",
                    *("yes" if x else "no" for x in (same, fit.weights == whole.weights)),
                ]
            )
    record(
        "resume",
        f"A fit of {epochs} epochs ({settings.name}), killed and resumed",
        ("killed", "resumed", "full-sequence accuracy on eval", "same history", "same weights, bit by bit"),
        rows,
        ("The epoch in which a fit was killed is repeated: less than one epoch of work is lost.",),
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
