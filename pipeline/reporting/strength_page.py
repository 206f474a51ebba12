"""Writes the page of `strength`: one self-contained HTML file without network access or JavaScript, for people who own a captcha.

Labels are untrusted input, as in the report (pipeline/reporting/report.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from components.base.files import write_whole
from components.evaluation.learning_curve import LEVEL, Estimate, round_up
from components.evaluation.metrics import Rate, wilson_interval
from pipeline.exporting.html_page import hashed
from pipeline.reporting import filters
from pipeline.reporting.content import Evaluation
from pipeline.reporting.report import confused_pairs
from pipeline.runs.drawn_styles import Changes, DrawnStyle
from pipeline.runs.strength import Goal, Strength

PAGE: Final = "strength.html"
MAX_CHARACTERS: Final = 24  # rows of the table; of a larger charset, the easiest and the hardest characters are shown
_POINTS: Final = 48  # of the drawn curve
_BEYOND: Final = 4  # the curve ends at this many times the labels of the largest fit
# People who solve captchas for money took about a dollar per thousand (Motoyama et al. 2010, see the page's sources).
DOLLARS_PER_LABEL: Final = 1 / 1000


@dataclass(frozen=True)
class Share:
    """How well one position or one character is read.

    Attributes:
      name: the position or the character.
      count: how often the early stage read it.
      early, late: the shares that the early and the last stage read right.
    """

    name: str
    count: int
    early: Rate
    late: Rate


def write_strength(title: str, strength: Strength, folder: Path) -> Path:
    """Writes PAGE and returns its path. The file appears complete or not at all. An earlier one is replaced.

    Args:
      title: of the page, such as the name of the pipeline.
      strength: what was measured.
      folder: is created if it is missing.

    Raises:
      CaptchaPipelineError: the disk is full, or the folder cannot be written.
    """
    template = filters.template("strength.html.j2")
    assert template.environment.loader
    style = "".join(template.environment.loader.get_source(template.environment, name)[0] for name in ("report.css", "strength.css"))
    early, last = strength.early, strength.stages[-1]
    classes = [*strength.spec.characters, *([""] if strength.spec.blank_id is not None else [])]
    characters = by_character(strength)
    html = template.render(
        title=title,
        strength=strength,
        goals=[
            (goal, labels_in_words(goal, strength), *minutes_in_words(goal, strength), dollars(goal, strength)) for goal in strength.goals
        ],
        interval=lambda estimate: interval(estimate, strength.cost.farthest),
        texts=sum(len(strength.spec.characters) ** length for length in range(strength.spec.min_length, strength.spec.max_length + 1)),
        curve=_curve(strength),
        ticks=[step * 10**power for power in range(7) for step in (1, 2, 5)],
        stages=[(stage, stage.results.sequence_accuracy) for stage in strength.stages],
        last=last,
        positions=by_position(strength),
        characters=_ends(characters),
        hidden=len(characters) - len(_ends(characters)),
        extremes=extremes,
        pairs=confused_pairs(Evaluation(early.results, classes)),
        changes=strength.changes,
        costliest=costliest(strength.changes) if strength.changes else None,
        times=times_in_words,
        level=round(100 * LEVEL),
        style=style,
        style_hash=hashed(style),
    )
    write_whole(folder / PAGE, html)
    return folder / PAGE


def labels_in_words(goal: Goal, strength: Strength) -> str:
    """Returns the number of labels that a goal needs, such as "about 120", "fewer than 12" or "more than 30,000"."""
    cost, value = strength.cost, goal.labels.value
    if value < cost.fewest:
        return f"fewer than {cost.fewest:,}"
    return f"about {round_up(value):,}" if math.isfinite(value) else f"more than {round_up(cost.farthest):,}"


def interval(estimate: Estimate, farthest: int) -> str:
    """Returns the bounds of an estimated number of labels, such as "80 to 150", "80 to more than 30,000" or "above 30,000".

    Args:
      estimate: its bounds may be infinite.
      farthest: the largest number of labels that can be estimated.
    """
    if math.isinf(estimate.lower):
        return f"above {round_up(farthest):,}"
    upper = f"{round_up(estimate.upper):,}" if math.isfinite(estimate.upper) else f"more than {round_up(farthest):,}"
    return f"{round_up(estimate.lower):,} to {upper}"


def minutes_in_words(goal: Goal, strength: Strength) -> tuple[str, str]:
    """Returns the CPU time that a goal needs, and the time that this machine needs at least, such as "6 minutes"; "–" if unknown."""
    minutes = goal.cpu_minutes.value
    return _duration(minutes), _duration(minutes / strength.cores)


def _duration(minutes: float) -> str:
    if not math.isfinite(minutes):
        return "–"
    if minutes < 1:
        return "less than a minute"
    if minutes < 120:
        return f"{round(minutes)} minute{'s' if round(minutes) > 1 else ''}"
    return f"{round(minutes / 60):,} hours"


def dollars(goal: Goal, strength: Strength) -> str:
    """Returns the price of a goal's labels, if people are paid to type them, in US dollars, such as "$0.12"; "–" if unknown."""
    labels = max(goal.labels.value, strength.cost.fewest)
    return f"${labels * DOLLARS_PER_LABEL:,.2f}" if math.isfinite(labels) else "–"


def times_in_words(times: Estimate) -> str:
    """Returns how many times as many labels a change needs, with the interval, such as "2.4 times (1.5 to 5.2)" or "far more"."""
    if math.isinf(times.value):
        return "far more"
    upper = f"{times.upper:.1f}" if math.isfinite(times.upper) else "far more"
    return f"{times.value:.1f} times ({times.lower:.1f} to {upper})"


def by_position(strength: Strength) -> list[Share]:
    """Returns the shares by position, the easiest position first. Positions that no label reaches are left out."""
    early, late = strength.early.results, strength.stages[-1].results
    counts = early.position_count.tolist()
    shares = [
        Share(f"position {place + 1}", counts[place], early.position_accuracy[place], late.position_accuracy[place])
        for place in range(len(counts))
        if counts[place]
    ]
    return sorted(shares, key=lambda share: -share.early.value)


def by_character(strength: Strength) -> list[Share]:
    """Returns the shares by character, the easiest character first. Characters that do not occur are left out."""
    stages = [stage.results.confusion_matrix for stage in (strength.early, strength.stages[-1])]
    right, seen = ([matrix.diagonal().tolist() for matrix in stages], [matrix.sum(axis=1).tolist() for matrix in stages])
    shares = [
        Share(
            character,
            seen[0][place],
            *(wilson_interval(right[stage][place], seen[stage][place], strength.confidence) for stage in range(len(stages))),
        )
        for place, character in enumerate(strength.spec.characters)
        if seen[0][place]
    ]
    return sorted(shares, key=lambda share: -share.early.value)


def extremes(shares: Sequence[Share], confidence: float) -> tuple[list[str], list[str]]:
    """Returns the names that are clearly easier than most, the easiest first, and those that are clearly harder, the hardest first.

    Clearly easier means that the whole interval of the early share is above the median of all early shares; clearly harder, below it. The
    intervals have Bonferroni's confidence, so that all of them together are right with the given confidence. Otherwise, one of many
    characters would look easy by chance.

    Args:
      shares: the easiest first.
      confidence: of all intervals together, such as 0.95.
    """
    if not shares:
        return [], []
    middle = float(np.median([share.early.value for share in shares]))
    level = 1 - (1 - confidence) / len(shares)
    intervals = [(share.name, wilson_interval(round(share.early.value * share.count), share.count, level)) for share in shares]
    easy = [name for name, rate in intervals if rate.lower > middle]
    hard = [name for name, rate in reversed(intervals) if rate.upper < middle]
    return easy, hard


def costliest(changes: Changes) -> DrawnStyle | None:
    """Returns the change after which the program reads the fewest pictures; None if its interval overlaps that of the unchanged style."""
    unchanged, *others = changes.styles
    if not others:
        return None
    hardest = min(others, key=lambda style: style.results.sequence_accuracy.value)
    return hardest if hardest.results.sequence_accuracy.upper < unchanged.results.sequence_accuracy.lower else None


def _ends(shares: Sequence[Share]) -> list[Share]:
    half = MAX_CHARACTERS // 2
    return list(shares) if len(shares) <= MAX_CHARACTERS else [*shares[:half], *shares[-half:]]


def _curve(strength: Strength) -> list[tuple[float, Estimate]]:
    """Returns accuracies by numbers of labels, which have equal ratios, from the smallest fit to _BEYOND times the largest."""
    cost = strength.cost
    return [(float(labels), cost.accuracy(labels)) for labels in np.geomspace(cost.fewest, _BEYOND * cost.most, _POINTS)]
