"""OCR readers that need no training, compared with this project's model on the test pictures of two tasks.

    apt-get install tesseract-ocr                                      # or the package of another system
    uv run python -m benchmarks.accuracy digits-final --epochs 8       # trains our model of each task, if missing
    uv run python -m benchmarks.accuracy alnum --epochs 8
    uv run --group readers python -m benchmarks.readers                # the group installs ddddocr

Expected: a table in about 20 minutes. With default settings ddddocr reads a fifth of the pictures with four digits and an eighth of those
with four of 36 characters. With the best settings and preparation it reads seven tenths of both; most of the gain comes from a margin and
from stretching the width. Tesseract reads a tenth or less of either. Readers that are not installed or not trained are reported as such.

The readers get every advantage that a careful user would give them: only characters of the charset, either case if case does not matter,
and the model, the settings and the preparation of pictures that do best on pictures of the eval split.
"""

import difflib
import functools
import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.results import record
from benchmarks.tasks import TASKS, Picture
from components.evaluation.metrics import Rate, wilson_interval
from components.serving import serving_dir
from pipeline.config.config import Config
from pipeline.inference.untrained import READERS, Preparation, Reader
from pipeline.logs import load_tensorflow, silence

_TEST_PICTURES: Final = 1_000
_CHOICE_PICTURES: Final = 200  # of the eval split, to choose the settings of a reader
_TASKS: Final = ("digits-final", "alnum")
_CONFIDENCE: Final = 0.95
_COLUMNS: Final = (
    "task",
    "reader",
    "full-sequence accuracy (95 % interval)",
    "with 0 = O and 1 = I",
    "position accuracy if the length is right",
    "ms per picture",
)
_ALIKE: Final = str.maketrans("oi", "01")


@dataclass(frozen=True)
class Score:
    """The result of a reader.

    Attributes:
      sequence: share of labels that are read completely.
      sequence_alike: the same with 0 = O and 1 = I, without case.
      position: share of correct characters in readings of the right length.
      similarity: mean of difflib's ratio of label and reading, 0 to 1.
      milliseconds: median per picture, read one at a time.
    """

    sequence: Rate
    sequence_alike: Rate
    position: Rate
    similarity: float
    milliseconds: float


_OPTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "stretch": (1.0, 1.5, 2.0, 2.5),
    "margin": (0, 5, 10),
    "median": (False, True),
    "scale": (1, 3),
}


def score(read: Reader, shown: Sequence[Picture], case_sensitive: bool) -> Score:
    """Reads the pictures one at a time and returns the result."""
    readings, seconds = [], []
    for picture in shown:
        start = time.perf_counter()
        readings.append(read(picture.encoded))
        seconds.append(time.perf_counter() - start)
    fold = str if case_sensitive else str.casefold
    pairs = [(fold(picture.label), fold(reading)) for picture, reading in zip(shown, readings, strict=True)]
    positions = [a == b for label, reading in pairs if len(label) == len(reading) for a, b in zip(label, reading, strict=True)]
    return Score(
        sequence=_share(label == reading for label, reading in pairs),
        sequence_alike=_share(label.casefold().translate(_ALIKE) == reading.casefold().translate(_ALIKE) for label, reading in pairs),
        position=_share(positions),
        similarity=statistics.mean(difflib.SequenceMatcher(None, label, reading).ratio() for label, reading in pairs),
        milliseconds=1000 * statistics.median(seconds),
    )


def _share(right: Iterable[bool]) -> Rate:
    counted = list(right)
    return wilson_interval(sum(counted), len(counted), _CONFIDENCE)


def our_reader(config: Config) -> tuple[str, Reader]:
    """Returns the name of the newest pushed version, and its reader.

    Raises:
      FileNotFoundError: no version was pushed.
    """
    pushed = next(iter(serving_dir.versions(config.serving_dir)), None)
    if pushed is None:
        raise FileNotFoundError(config.serving_dir)
    load_tensorflow()
    from pipeline.inference.served_model import ServedModel

    model = ServedModel(pushed.path)
    return f"{pushed.about['preset']}, version {pushed.version}", lambda encoded: next(model.read([encoded])).text


def best_reader(settings: Mapping[str, Reader], shown: Sequence[Picture], case_sensitive: bool) -> tuple[str, Reader]:
    """Chooses the setting and the preparation of a reader: one option at a time, in two rounds.

    The criterion is the share of pictures read right plus the similarity, which still separates settings that read hardly any picture.
    Returns the name of the choice, and its reader.
    """

    @functools.cache
    def quality(setting: str, preparation: Preparation) -> float:
        scored = score(_prepared(settings[setting], preparation), shown, case_sensitive)
        return scored.sequence.value + scored.similarity

    setting, preparation = next(iter(settings)), Preparation()
    for _ in range(2):
        setting = max(settings, key=lambda name: quality(name, preparation))
        for option, values in _OPTIONS.items():
            candidates = [replace(preparation, **{option: value}) for value in values]
            preparation = max(candidates, key=functools.partial(quality, setting))
    return f"{setting}, {preparation}", _prepared(settings[setting], preparation)


def _prepared(read: Reader, preparation: Preparation) -> Reader:
    return lambda encoded: read(preparation(encoded))


def _row(task: str, reader: str, scored: Score | None) -> list[str]:
    if scored is None:
        return [task, reader, *[""] * (len(_COLUMNS) - 2)]
    rate = scored.sequence
    return [
        task,
        reader,
        f"{rate.value:.1%} ({rate.lower:.1%} to {rate.upper:.1%})",
        f"{scored.sequence_alike.value:.1%}",
        f"{scored.position.value:.1%}",
        f"{scored.milliseconds:.1f}",
    ]


def _rows(task: str) -> Iterator[list[str]]:
    config = TASKS[task].config()
    spec = config.captcha
    test = TASKS[task].pictures("test", _TEST_PICTURES)
    for name, make in READERS.items():
        try:
            settings = dict(make(spec))
        except (ImportError, FileNotFoundError):
            yield _row(task, f"{name}: not installed", None)
            continue
        plain, read = next(iter(settings.items()))
        yield _row(task, f"{name}: {plain}, unchanged", score(read, test, spec.case_sensitive))
        best, read = best_reader(settings, TASKS[task].pictures("eval", _CHOICE_PICTURES), spec.case_sensitive)
        yield _row(task, f"{name}, best settings: {best}", score(read, test, spec.case_sensitive))
    try:
        version, read = our_reader(config)
    except FileNotFoundError:
        yield _row(task, "ours: no version pushed", None)
    else:
        yield _row(task, f"ours: {version}", score(read, test, spec.case_sensitive))


def main() -> None:
    record(
        "readers",
        "OCR readers that need no training, and this project's model (ours)",
        _COLUMNS,
        list(itertools.chain.from_iterable(map(_rows, _TASKS))),
        [
            f"{_TEST_PICTURES:,} test pictures per row, the same for all readers, read one at a time.",
            "Milliseconds are medians. They include the preparation of the picture and, for Tesseract, the start of its process.",
            "The other readers have never seen these pictures, fonts and noise; ours was trained on other pictures of the same kind.",
            f"Best settings: the model, settings and preparation that do best on {_CHOICE_PICTURES} pictures of the eval split.",
            "Preparations: a 3 x 3 median filter; a margin; three times the size; the width stretched 1.5, 2 or 2.5 times.",
            "If case does not matter to the task, labels are compared without case.",
        ],
    )


if __name__ == "__main__":
    silence()
    main()
