"""Time and memory of the Evaluator by size of the charset, for 2,000 pictures of four characters and two models.

    uv run python -m benchmarks.large_charset

Expected: memory at 3,500 characters is at most twice that at 300. At 300 characters the accuracies equal those of an earlier release with a
dense confusion matrix for every slice, which takes at least twice the time. Its code comes from this repository's history. Some minutes.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from benchmarks.evaluated import LENGTH, PICTURES
from benchmarks.results import record

CHARACTERS: Final = (10, 300, 1_000, 3_500)
COMPARED: Final = 300
_DENSE: Final = "705cd089c3ba008c7abd54b4fbb6830063597b6a"  # the last commit with a dense matrix in every slice
_ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Measurement:
    """One evaluation in its own process. `sets` are the measured accuracies."""

    characters: int
    seconds: float
    peak_bytes: int
    figures_bytes: int
    sets: dict[str, Any]

    def row(self, matrices: str) -> list[str]:
        return [
            f"{self.characters:,}",
            matrices,
            f"{self.seconds:.1f} s",
            f"{self.peak_bytes / 2**20:,.0f} MiB",
            f"{self.figures_bytes / 2**20:,.1f} MiB",
        ]


def measure(characters: int, code: Path = _ROOT) -> Measurement:
    """Evaluates with the components in the folder `code`, with a charset of `characters`."""
    program = [sys.executable, str(Path(__file__).with_name("evaluated.py")), str(characters)]
    environment = os.environ | {"PYTHONPATH": str(code)}
    found = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=code).stdout
    return Measurement(characters, **json.loads(found.splitlines()[-1]))


def earlier(folder: Path) -> Path:
    """Extracts the code of the commit _DENSE into a folder, and returns the folder."""
    packed = subprocess.run(["git", "archive", _DENSE, "components", "pipeline"], check=True, stdout=subprocess.PIPE, cwd=_ROOT).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = measure(COMPARED, earlier(Path(folder)))
    now = {characters: measure(characters) for characters in CHARACTERS}
    same, largest = now[COMPARED], now[CHARACTERS[-1]]
    assert same.sets == before.sets, (same.sets, before.sets)
    more = [
        f"{before.seconds / same.seconds:.1f} times as long",
        f"{before.peak_bytes / same.peak_bytes:.1f} times as much memory",
        f"{before.figures_bytes / same.figures_bytes:,.0f} times as much disk space",
    ]
    record(
        "large_charset",
        f"The Evaluator by size of the charset: {PICTURES:,} pictures of {LENGTH} characters, two models",
        ["characters", "confusion matrix", "time", "peak memory", "metrics on disk"],
        [before.row("dense, for every slice"), *(it.row("sparse, for all pictures") for it in now.values())],
        [
            "One run per row, in a new process. At 10 characters TensorFlow and TFX themselves take nearly all of the peak memory.",
            f"At {COMPARED} characters, dense matrices take {', '.join(more)}; the accuracies are equal.",
            f"From {COMPARED} to {largest.characters:,} characters: {largest.peak_bytes / same.peak_bytes:.2f} times the peak memory.",
            f"Dense matrices for {largest.characters:,} slices would take {8 * largest.characters**3 / 1e9:,.0f} GB per model.",
        ],
    )


if __name__ == "__main__":
    typer.run(main)
