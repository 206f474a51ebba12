"""The data sets of the benchmarks, each with its own seed, and the commands that make and use them."""

import itertools
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from components.base.features import IMAGE, LABEL
from components.data.example_proto import Example
from components.data.spans import list_spans
from components.data.tfrecords import Damage, Record, read_records
from pipeline.config.config import Config
from pipeline.config.loading import load_config

_CONFIGS: Final = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Picture:
    """A label, and the encoded picture as stored."""

    label: str
    encoded: bytes


@dataclass(frozen=True)
class Task:
    """A configuration of configs/ with other data.

    Attributes:
      name: name of the pipeline and of the data folder.
      base: name of the file in configs/, without extension.
      count: number of pictures.
      splits: relative sizes of the splits.
      seed: seed of the pictures.
      changes: additional overrides.
    """

    name: str
    base: str
    count: int
    splits: str
    seed: int
    changes: tuple[str, ...] = ()

    def options(self, *overrides: str) -> list[str]:
        """Returns the command-line options for this task."""
        changes = (
            f"name={self.name}",
            "root=output/benchmarks",
            f"data.root=data/benchmarks/{self.name}",
            f"data.splits={self.splits}",
            f"synth.count={self.count}",
            f"synth.seed={self.seed}",
            *self.changes,
            *overrides,
        )
        return ["--config", str(_CONFIGS / f"{self.base}.yaml"), *(word for change in changes for word in ("--set", change))]

    def config(self, *overrides: str) -> Config:
        """Returns the configuration. Makes the data first if they are missing."""
        file, changes = self.options(*overrides)[1], self.options(*overrides)[3::2]
        config = load_config(file, changes)
        if not list_spans(config.data.root):
            command("data", "synth", *self.options())
        return config

    def records(self, split: str, count: int) -> list[bytes]:
        """Returns the first records of a split, serialized. Makes the data first if they are missing."""
        (span,) = list_spans(self.config().data.root)
        first = itertools.islice(itertools.chain.from_iterable(map(read_records, span.files(split))), count)
        return [_data(record) for record in first]

    def pictures(self, split: str, count: int) -> list[Picture]:
        """Returns the first pictures of a split. Makes the data first if they are missing."""
        return [_picture(data) for data in self.records(split, count)]


def _data(record: Record | Damage) -> bytes:
    assert isinstance(record, Record), record
    return record.data


def _picture(data: bytes) -> Picture:
    feature = Example.FromString(data).features.feature
    return Picture(feature[LABEL].bytes_list.value[0].decode(), feature[IMAGE].bytes_list.value[0])


def command(*words: str, exit_codes: Collection[int] = (0,)) -> None:
    """Runs `captcha-pipeline` in its own process.

    Raises:
      CalledProcessError: it failed with an exit code that is not in `exit_codes`.
    """
    done = subprocess.run([sys.executable, "-c", "from pipeline.cli.main import main; main()", *words])
    if done.returncode not in exit_codes:
        done.check_returncode()


# For decisions about the recipe: 20,000 pictures to train, 10,000 to compare.
_RECIPE: Final = Task("digits-recipe", "digits", 40_000, "{train: 2, eval: 1, test: 1}", seed=7)
# For the figures: 20,000 pictures to train, 2,000 for early stopping, 10,000 to test and for nothing else.
_FINAL: Final = Task("digits-final", "digits", 32_000, "{train: 10, eval: 1, test: 5}", seed=11)
# The same with glyphs of the captcha library's own size, 21 to 28 points on 30 pixels: strokes are then no wider than the dots on them.
_LIBRARY: Final = replace(_FINAL, name="digits-library", changes=("synth.font_sizes=[]",))
# For decisions and figures: 128,000 pictures to train, 4,000 to compare, 10,000 to test.
_ALNUM: Final = Task("alnum", "alnum", 142_000, "{train: 64, eval: 2, test: 5}", seed=7)
# The same with 512,000 to train, each seen once, as if pictures were drawn during training.
_ALNUM_ONCE: Final = Task("alnum-once", "alnum", 526_000, "{train: 256, eval: 2, test: 5}", seed=13)

# Text anywhere on a canvas: 16,700 pictures to train, and 100,000.
_FREE: Final = Task("free", "free", 20_000, "{train: 10, eval: 1, test: 1}", seed=17)
_FREE_MANY: Final = Task("free-many", "free", 120_000, "{train: 50, eval: 1, test: 1}", seed=19)


def _read_in(channels: int, task: Task, name: str) -> Task:
    """Returns a task with the pictures of another task, read in grey (1) or in colour (3)."""
    return replace(task, name=name, changes=(f"data.root=data/benchmarks/{task.name}", f"captcha.channels={channels}"))


TASKS: Final = MappingProxyType(
    {
        task.name: task
        for task in (
            _RECIPE,
            _FINAL,
            _LIBRARY,
            _ALNUM,
            _ALNUM_ONCE,
            _FREE,
            _FREE_MANY,
            _read_in(1, _FINAL, "digits-final-grey"),
            _read_in(3, _ALNUM, "alnum-colour"),
        )
    }
)
