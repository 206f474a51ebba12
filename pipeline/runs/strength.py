"""Measures how strong a captcha is: the labels and the CPU time that an attacker needs, and which changes make it harder to read."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import nnls

from components.base.errors import CaptchaPipelineError
from components.base.features import IMAGE, LABEL, SPLITS
from components.data.captcha_spec import CaptchaSpec, LabelError
from components.data.example_proto import Example
from components.data.pictures import visible_picture
from components.data.records import encode_png
from components.data.spans import Span
from components.data.tfrecords import whole_records
from components.evaluation.label_cost import LabelCost
from components.evaluation.learning_curve import Estimate
from components.evaluation.metrics import Rate, ReadingCounts, Results, wilson_interval
from pipeline.config.config import Config
from pipeline.inference.untrained import BEST, READERS, Preparation
from pipeline.runs.cross_validation import examples, excluded_sources, labelled_by_people, source_of
from pipeline.runs.drawn_styles import SHOWN, Changes, drawn_style, measure_changes
from pipeline.runs.history import RunRecord

if TYPE_CHECKING:  # imports TensorFlow
    from components.training.cross_validation import PartFit

GOALS: Final = (0.1, 0.5, 0.9)  # full-sequence accuracies of an attack
_PARTS_OF_ROUNDS: Final = (8, 64, 512)  # into how many parts each round of fits divides the pictures
_UNTRAINED_PICTURES: Final = 200  # that ready-made OCR programs read
_HALF: Final = 0.5
# The second preparation helped most on drawn captchas (benchmarks/results/readers.json).
_PREPARATIONS: Final = (Preparation(), Preparation(margin=5, scale=3))


@dataclass(frozen=True)
class Goal:
    """What an attacker needs to reach an accuracy.

    Attributes:
      accuracy: share of the pictures that are read without a mistake, 0 to 1.
      labels: number of labelled pictures.
      cpu_minutes: CPU time of one fit to that many pictures, in minutes, summed over all cores.
    """

    accuracy: float
    labels: Estimate
    cpu_minutes: Estimate


@dataclass(frozen=True)
class CpuTime:
    """The CPU time of a fit, in seconds, summed over all cores.

    Attributes:
      start: of a fit of any length.
      step: of each step, in addition.
    """

    start: float
    step: float

    def minutes(self, steps: int) -> float:
        """Returns the CPU time, in minutes, of a fit with this number of steps."""
        return (self.start + self.step * steps) / 60


@dataclass(frozen=True, eq=False)
class Stage:
    """All fits to about equally many labels together.

    Attributes:
      labels: the mean number of labels of a fit.
      fits: the number of fits.
      results: how the fits read pictures that they were not fitted to.
    """

    labels: int
    fits: int
    results: Results


@dataclass(frozen=True)
class Untrained:
    """How a ready-made OCR program reads the captcha, without any training.

    Attributes:
      name: of the program, with its settings.
      right: share of the pictures read without a mistake; None if it could not be measured.
      problem: why it could not be measured; "" if it was measured.
    """

    name: str
    right: Rate | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Strength:
    """How strong a captcha is.

    Attributes:
      run_id: the run whose pictures were used.
      pictures: the number of labelled pictures that were used.
      spec: the texts and the size of the pictures.
      samples: a few of the pictures, as PNGs.
      goals: what an attacker needs for each accuracy in GOALS.
      cost: the accuracy by the number of labels.
      stages: the results by the number of labels, the smallest number first.
      early: the stage whose accuracy is nearest to one half.
      cpu_time: of a fit.
      cores: the number of cores that this process may use.
      untrained: how ready-made OCR programs read the pictures.
      changes: what changes of the style do; None if nothing says how to draw such pictures.
      confidence: of the intervals of shares, such as 0.95.
    """

    run_id: str
    pictures: int
    spec: CaptchaSpec
    samples: tuple[bytes, ...]
    goals: tuple[Goal, ...]
    cost: LabelCost
    stages: tuple[Stage, ...]
    early: Stage
    cpu_time: CpuTime
    cores: int
    untrained: tuple[Untrained, ...]
    changes: Changes | None
    confidence: float


def strength(config: Config, run: RunRecord, spans: Sequence[Span], say: Callable[[str], None]) -> Strength:
    """Measures how strong the captcha of a run is. Fits models to parts of its train and eval splits, on the CPU.

    Args:
      config: gives the trainer's settings, the confidence of the intervals, and the style of drawn pictures.
      run: the run whose examples are used.
      spans: the spans of the run.
      say: called with each line about the progress.

    Raises:
      CaptchaPipelineError: the run has no examples, has too few, or its section `captcha` differs from that of `config`.
    """
    # With a GPU, the CPU time would say little about the cost of a fit.
    parameters = config.trainer.model_copy(update={"strategy": "cpu"})
    config = config.model_copy(update={"trainer": parameters})
    confidence = config.evaluator.confidence
    style = drawn_style(config, spans)
    pictures = list(itertools.islice(_pictures(config, run), _UNTRAINED_PICTURES))
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        fits = _fits(config, [*itertools.chain.from_iterable(labelled_by_people(config, run, Path(directory)).values())], say)
    groups = [list(group) for _, group in itertools.groupby(sorted(fits, key=lambda fit: fit.share), key=lambda fit: fit.share)]
    stages = tuple(_stage(group, config.captcha, confidence) for group in groups)
    early = min(stages, key=lambda stage: abs(stage.results.sequence_accuracy.value - _HALF))
    # Non-negative least squares: neither part of the time can be negative.
    cpu_time = CpuTime(*nnls(np.array([[1.0, fit.steps] for fit in fits]), np.array([fit.cpu_seconds for fit in fits]))[0].tolist())
    cost, minutes = LabelCost(groups), lambda labels: cpu_time.minutes(parameters.fit_length(labels).steps)
    return Strength(
        run_id=run.run_id,
        pictures=fits[0].fitted + fits[0].read,
        spec=config.captcha,
        samples=tuple(picture for picture, _ in pictures[:SHOWN]),
        goals=tuple(_goal(accuracy, cost, minutes) for accuracy in GOALS),
        cost=cost,
        stages=stages,
        early=early,
        cpu_time=cpu_time,
        cores=len(os.sched_getaffinity(0)),
        untrained=tuple(_untrained(config.captcha, pictures, confidence, say)),
        # A change shows most where a fit reads about half of the pictures, so this many labels are used.
        changes=measure_changes(config, *style, early.labels, minutes(early.labels), say) if style else None,
        confidence=confidence,
    )


def _fits(config: Config, files: Sequence[str], say: Callable[[str], None]) -> "list[PartFit]":
    """Returns fits to a half, a quarter and an eighth of the pictures, then to smaller parts.

    Stops when the smallest fits read at most a tenth of the other pictures, or when a part would have too few pictures.
    """
    from components.training.batches import count_records
    from components.training.cross_validation import EACH, PARTS, fit_sizes, learning_curve

    count = count_records(files)
    rounds = [parts for parts in _PARTS_OF_ROUNDS if parts == PARTS or count >= EACH * parts]
    sizes = [size for parts in rounds for size in fit_sizes(count, parts)]
    say(f"Up to {len(sizes)} fits, each to {min(sizes):,} to {max(sizes):,} of {count:,} pictures, until the smallest read at most 10 %")
    fits: list[PartFit] = []

    def on_fit(fit: "PartFit") -> None:
        right = f"{1 - fit.misread / fit.read:.1%}".replace("%", " %")
        say(f"{fit.fitted:,} labels: reads {right} of {fit.read:,} other pictures, {fit.cpu_seconds / 60:.1f} CPU minutes")
        if not fits:
            seconds = fit.cpu_seconds / fit.steps * sum(config.trainer.fit_length(size).steps for size in sizes)
            say(f"All fits together take at most about {max(1, round(seconds / 60))} CPU minutes")
        fits.append(fit)

    for parts in rounds:
        with tempfile.TemporaryDirectory(dir=config.root) as directory:
            learning_curve(files, config.captcha, config.trainer, Path(directory), on_fit, parts)
        smallest = [fit for fit in fits if fit.share == min(fit.share for fit in fits)]
        if sum(fit.read - fit.misread for fit in smallest) <= GOALS[0] * sum(fit.read for fit in smallest):
            break
    return fits


def _stage(group: "Sequence[PartFit]", spec: CaptchaSpec, confidence: float) -> Stage:
    counts = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    for fit in group:
        counts.merge(fit.counts)
    return Stage(round(float(np.mean([fit.fitted for fit in group]))), len(group), counts.results(confidence))


def _goal(accuracy: float, cost: LabelCost, minutes: Callable[[int], float]) -> Goal:
    labels = cost.labels_for(accuracy)
    numbers = (labels.value, labels.lower, labels.upper)
    return Goal(accuracy, labels, Estimate(*(minutes(max(1, round(number))) if np.isfinite(number) else number for number in numbers)))


def _pictures(config: Config, run: RunRecord) -> Iterator[tuple[bytes, str]]:
    """Yields the pictures of the eval split, then of the train split, as PNGs with their labels, if these are labels of people."""
    excluded = excluded_sources(run)
    for split in reversed(SPLITS[:2]):
        for record in whole_records(Path(examples(run, split)[0]).parent):
            example = Example.FromString(record)
            if source_of(example) in excluded:
                continue
            feature = example.features.feature
            image = visible_picture(feature[IMAGE].bytes_list.value[0], config.data.picture_rules)
            yield encode_png(image), feature[LABEL].bytes_list.value[0].decode()


def _untrained(
    spec: CaptchaSpec, pictures: Sequence[tuple[bytes, str]], confidence: float, say: Callable[[str], None]
) -> Iterator[Untrained]:
    for name, readers in READERS.items():
        say(f"{name} reads {len(pictures)} pictures without training")
        try:
            settings, read = next(found for found in readers(spec) if found[0] == BEST[name])
            for preparation in _PREPARATIONS:
                right = sum(_same(read(preparation(picture)), label, spec) for picture, label in pictures)
                yield Untrained(f"{name}: {settings}, {preparation}", wilson_interval(right, len(pictures), confidence))
        except (ImportError, FileNotFoundError):
            yield Untrained(name, None, "not installed on this machine")
        except CaptchaPipelineError as error:
            yield Untrained(name, None, str(error))


def _same(reading: str, label: str, spec: CaptchaSpec) -> bool:
    try:
        return spec.canonical(reading) == label
    except LabelError:
        return False
