"""Prints the results of `audit`, `plan` and `strength`, which fit models to parts of the labels."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.reporting.tables import percent

if TYPE_CHECKING:
    from components.evaluation.learning_curve import Estimate, Fitted
    from pipeline.runs.audit import Audit
    from pipeline.runs.cross_validation import Plan
    from pipeline.runs.strength import Strength

_SUSPECTS: Final = 20  # rows of the table of suspect labels
# If the models read a smaller share as labelled and few labels are wrong, most suspects are mistakes of the models (simulated with
# perfectly calibrated models and 3 % wrong labels: 10 of 12 suspects are wrong labels at 92 %, 8 of 19 at 76 %).
_TRUSTED: Final = 0.85
_GOALS: Final = (0.9, 0.95, 0.98, 0.99)  # full-sequence accuracies for which `plan` names the labels


def print_audit(console: Console, audit: "Audit", page: Path) -> None:
    """Prints how many labels are probably wrong, a table of the first of them, and the path of the page."""
    console.print(f"{audit_in_words(audit)}", highlight=False, soft_wrap=True)
    count = len(audit.suspects)
    if count:
        table = Table(caption=f"the first {_SUSPECTS}" if count > _SUSPECTS else None)
        for column in ("label", "read as", "confidence", "split", "span", "file"):
            table.add_column(column, overflow="fold")
        for suspect in audit.suspects[:_SUSPECTS]:
            texts = (suspect.label, suspect.reading, f"{suspect.confidence:.4f}", suspect.split, suspect.span, suspect.file or "-")
            table.add_row(*map(escape, texts))
        console.print(table)
        console.print("Open the page in a browser to look at them and to save your corrections.", highlight=False)
    console.print(f"Page: {page}", highlight=False, markup=False, soft_wrap=True)


def audit_in_words(audit: "Audit") -> str:
    """Returns how many labels are probably wrong, and how far the models can be trusted."""
    count, weak = len(audit.suspects), audit.as_labelled < _TRUSTED
    be = "may be" if weak else "is probably" if count == 1 else "are probably"
    words = f"{count:,} of {audit.pictures:,} labels {be} wrong. The models read {audit.as_labelled:.0%} of the pictures as labelled"
    advice = ". Either many labels are wrong, or the models are still weak: look at the first ones." if weak and count else "."
    return (words + advice).replace("%", " %")


def print_fit(console: Console, fit: "Fitted") -> None:
    """Prints the result of one fit of a learning curve."""
    right = 1 - fit.misread / fit.read
    console.print(f"Fitted to {fit.fitted:,} pictures: reads {right:.2%} of {fit.read:,} others".replace("%", " %"), highlight=False)


def print_plan(console: Console, plan: "Plan") -> None:
    """Prints the expected accuracy now and with more labels, and the labels needed for each of _GOALS, with intervals."""
    from components.evaluation.learning_curve import LEVEL

    if not plan.curve.learned:
        console.print("The models have learned almost nothing from so few labels, so nothing can be estimated yet. Label more pictures.")
        return
    caption = f"{LEVEL:.0%} interval; the labels are those of all splits, {plan.trained_on:.0%} of them in the train split"
    table = Table(caption=caption.replace("%", " %"))
    for column in ("labels", "full sequence %", "interval"):
        table.add_column(column, justify="right")
    for name, times in (("now", 1.0), ("1.5 times as many", 1.5), ("twice as many", 2.0), ("four times as many", 4.0)):
        labels = round(plan.labels * times)
        accuracy = plan.curve.accuracy(round(labels * plan.trained_on))
        table.add_row(f"{labels:,} ({name})", f"{accuracy.value:.1%}".removesuffix("%"), f"{_points(accuracy)}")
    console.print(table)
    for goal in _GOALS:
        needed = plan.curve.pictures_for(goal)
        value, lower, upper = (_labels(pictures, plan) for pictures in (needed.value, needed.lower, needed.upper))
        interval = f" ({lower} to {upper})" if math.isfinite(needed.lower) else ""
        console.print(f"For {goal:.0%}: {value} labels{interval}".replace("%", " %"), highlight=False)


def _points(estimate: "Estimate") -> str:
    return f"{estimate.lower:.1%} to {estimate.upper:.1%}".replace("%", " %")


def _labels(pictures: float, plan: "Plan") -> str:
    """Returns how many labels in all splits put a number of pictures into the train split, as text such as "450" or "more than 16,000"."""
    from components.evaluation.learning_curve import round_up

    farthest = plan.curve.farthest
    return f"{'more than ' * (pictures > farthest)}{round_up(min(pictures, farthest) / plan.trained_on):,}"


def print_strength(console: Console, strength: "Strength", page: Path) -> None:
    """Prints the labels and the CPU time for each accuracy, what OCR programs read, the changes, and the path of the page."""
    from components.evaluation.learning_curve import LEVEL
    from pipeline.reporting import strength_page as words

    table = Table(caption=f"{LEVEL:.0%} interval".replace("%", " %"))
    for column in ("pictures read", "labels", "interval", "CPU time"):
        table.add_column(column, justify="right")
    for goal in strength.goals:
        interval = words.interval(goal.labels, strength.cost.farthest)
        cells = (f"{goal.accuracy:.0%}", words.labels_in_words(goal, strength), interval, words.minutes_in_words(goal, strength)[0])
        table.add_row(*(cell.replace("%", " %") for cell in cells))
    console.print(table)
    for reader in strength.untrained:
        read = f"{percent(reader.right)} read without training" if reader.right else reader.problem
        console.print(f"{reader.name}: {read}", highlight=False, markup=False, soft_wrap=True)
    if strength.changes:
        table = Table(caption=f"drawn pictures; one fit to {strength.changes.labels:,} labels for each row")
        table.add_column("change")
        for column in ("read %", "labels for the same", "contrast", "overlap %"):
            table.add_column(column, justify="right")
        for style in strength.changes.styles:
            read, overlap = percent(style.results.sequence_accuracy).removesuffix(" %"), style.legibility.overlap
            times = words.times_in_words(style.times) if style.name else "-"
            clear = f"{style.legibility.contrast:.1f}"
            table.add_row(style.name or "none", read, times, clear, "-" if overlap is None else f"{100 * overlap:.1f}")
        console.print(table)
    console.print(f"Page: {page}", highlight=False, markup=False, soft_wrap=True)
