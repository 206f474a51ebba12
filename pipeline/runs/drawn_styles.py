"""Measures how changes of a drawing style affect those who read the pictures: a program that learns from labels, and people."""

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError
from components.base.features import DRAWN
from components.data.drawing.legibility import Legibility, legibility
from components.data.drawing.painting import SynthPlan, find_fonts, painter
from components.data.drawing.style_variants import Variant, variants
from components.data.records import encode_png
from components.data.spans import Span
from components.evaluation.learning_curve import Estimate, Fitted, LearningCurve
from components.evaluation.metrics import Results
from pipeline.config.config import Config

SHOWN: Final = 3  # pictures of each style on the page
_READ: Final = 1_000  # drawn pictures that each fit reads
_FURTHER_SEED: Final = 1_000_003  # added to synth.seed, so that the drawn pictures are not those of the spans
_NOT_STYLE: Final = ("count", "shard_size", "splits", "captcha", "pillow")  # keys of a manifest's params that do not describe the style
_EARLIER: Final = {"overlap": 0.25}  # the style of spans of earlier releases, whose params do not mention the overlap


@dataclass(frozen=True, eq=False)
class DrawnStyle:
    """A style of drawn pictures, and how they are read.

    Attributes:
      name: what is changed; "" for the unchanged style.
      results: how a model that was fitted to pictures of this style reads other pictures of it.
      legibility: how hard the pictures are for people.
      times: how many times as many labels the style needs to reach the accuracy of the unchanged style.
      samples: the first SHOWN pictures, as PNGs.
    """

    name: str
    results: Results
    legibility: Legibility
    times: Estimate
    samples: tuple[bytes, ...]


@dataclass(frozen=True)
class Changes:
    """The unchanged style, and styles with one change each.

    Attributes:
      labels: the number of drawn pictures that each model is fitted to.
      own: whether the pictures of the run are known to be drawn in this style. If not, only the section `synth` of the configuration says
        that they look like it.
      styles: the unchanged style, then the changed ones.
    """

    labels: int
    own: bool
    styles: tuple[DrawnStyle, ...]


def drawn_style(config: Config, spans: Sequence[Span]) -> tuple[SynthPlan, bool] | None:
    """Returns a plan that draws pictures like those of a run, and whether the spans are known to be drawn in its style.

    Args:
      config: its section `synth` is the style.
      spans: the spans of the run.

    Returns:
      None if the spans are not drawn in this style and the configuration has no section `synth`, or if a font is missing or lacks a
      character.
    """
    try:
        fonts = find_fonts(SynthPlan(config.captcha, config.synth, {}).effective_fonts, config.captcha.characters)
    except CaptchaPipelineError:
        return None
    synth = config.synth.model_copy(update={"fonts": fonts if config.synth.fonts else (), "seed": config.synth.seed + _FURTHER_SEED})
    plan = SynthPlan(config.captcha, synth, config.data.splits.model_dump())
    own = bool(spans) and all(span.manifest.source == DRAWN and _style(span.manifest.params) == _style(plan.params) for span in spans)
    return (plan, own) if own or "synth" in config.model_fields_set else None


def _style(params: dict[str, object]) -> object:
    return json.loads(json.dumps({key: value for key, value in (_EARLIER | params).items() if key not in _NOT_STYLE}))


def measure_changes(config: Config, plan: SynthPlan, own: bool, labels: int, cpu_minutes: float, say: Callable[[str], None]) -> Changes:
    """Fits one model to pictures of the unchanged style, and one for each change.

    Args:
      config: gives the trainer's settings.
      plan, own: from `drawn_style`.
      labels: the number of pictures to fit to.
      cpu_minutes: the expected CPU time of one fit, to say how long all of them will take.
      say: called with each line about the progress.

    Raises:
      CaptchaPipelineError: the strategy is unavailable.
    """
    styles = [Variant("", plan), *variants(plan)]
    say(f"{len(styles)} fits to {labels:,} drawn pictures each: about {max(1, round(len(styles) * cpu_minutes))} CPU minutes")
    measured: list[DrawnStyle] = []
    unchanged: LearningCurve | None = None
    for style in styles:
        found, curve = _measured(style, labels, config, unchanged)
        measured.append(found)
        unchanged = unchanged or curve
        read = f"{measured[-1].results.sequence_accuracy.value:.1%}".replace("%", " %")
        say(f"{style.name or 'unchanged style'}: reads {read}")
    return Changes(labels, own, tuple(measured))


def _measured(style: Variant, labels: int, config: Config, unchanged: LearningCurve | None) -> tuple[DrawnStyle, LearningCurve]:
    from components.training.cross_validation import fit_to_file
    from components.training.untransformed import write_examples

    plan, spec = style.plan, style.plan.spec
    drawn_by = painter(plan)
    drawn = ((encode_png(picture.image), picture.label) for picture in map(drawn_by.paint, range(labels + _READ)))
    train, others = list(itertools.islice(drawn, labels)), list(drawn)
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        paths = Path(directory, "train.gz"), Path(directory, "others.gz")
        write_examples(others, spec, paths[1], write_examples(train, spec, paths[0]))
        counts = fit_to_file(*paths, spec, config.trainer).counts(spec)
    curve = LearningCurve([Fitted(labels, counts.examples, counts.examples - counts.sequences_right)])
    needed = curve.pictures_like(unchanged or curve, labels)
    times = Estimate(*(number / labels for number in (needed.value, needed.lower, needed.upper)))
    shown = tuple(picture for picture, _ in train[:SHOWN])
    return DrawnStyle(style.name, counts.results(config.evaluator.confidence), legibility(plan), times, shown), curve
