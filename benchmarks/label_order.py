"""Measures how many labels the order of `captcha-pipeline label` saves, compared with labelling pictures in random order.

    uv run python -m benchmarks.label_order --data FOLDER

FOLDER has the sets gt4 and v2, as for benchmarks/real.py. A simulated person labels pictures of the training part, in the order in which
the page would show them. After 60 labels, and after every 50 more, a model is fitted to the labels so far. From then on it decides the
order. It also reads the test part; nothing is chosen by that result. For comparison, models are fitted to as many labels of pictures that
are drawn at random. Each seed draws other pictures, and gives the models of both orders other initial weights.

The result of each fit is stored at once, so sets, orders and seeds can run one by one, with `--only gt4 --orders random --seeds 2`. A seed
of a set takes 12 fits of about two minutes on 2 cores.
"""

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy.special import softmax

from benchmarks.real import prepared
from benchmarks.real_sets import Division, Labelled, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import fit_and_read, without_labels
from components.data.spans import span_numbers
from components.evaluation.metrics import read
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.labelling.journal import Kind
from pipeline.labelling.labels import in_spans, write_span
from pipeline.labelling.opening import opened
from pipeline.labelling.session import Session
from pipeline.logs import load_tensorflow, silence

_NAME: Final = "label_order"
_SETS: Final = ("gt4", "v2")
_ACTIVE, _RANDOM = _ORDERS = ("of the page", "random")
_BUDGETS: Final = (60, 110, 160, 210, 260, 310)  # numbers of labels at which a model is fitted
_WINDOW: Final = "benchmark"  # the name of the simulated browser window
_GOAL: Final = 0.6  # the number of labels should be at most this share of the random labels for the same accuracy


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    only: Annotated[list[str] | None, typer.Option(help=f"a set; can be repeated; default: {', '.join(_SETS)}")] = None,
    orders: Annotated[list[str] | None, typer.Option(help=f"one of: {', '.join(_ORDERS)}; can be repeated; default: both")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3",
) -> None:
    load_tensorflow()
    found = {division.name: division for division in divisions(data)}
    for name in only or _SETS:
        for seed in map(int, seeds.split(",")):
            for order in orders or _ORDERS:
                for row in measure(found[name], order, seed):
                    keep(_NAME, row)
    notes = [
        "Labels: all that the person typed. The model is fitted to those of the train split; the others choose the confidences.",
        "Random labels for the same accuracy: on the straight line between two numbers of labels, in logarithms of labels and of errors.",
    ]
    record(_NAME, "The order of labelling: accuracy by the number of labels", *table(kept(_NAME)), notes)


def measure(division: Division, order: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yields a result row for each number of labels.

    Args:
      division: the set.
      order: one of _ORDERS.
      seed: draws the pictures, and the initial weights.
    """
    part = division.parts[0]
    spec = spec_of(part.train)
    settings = prepared(f"order-{division.name}-{order.replace(' ', '-')}-{seed}", spec, part.train)
    config = load_config(settings)
    shuffled = random.Random(seed).sample(part.train, len(part.train))
    folder = without_labels(shuffled, settings.with_name("unlabelled"))
    with opened(config, folder) as session:
        truth = [shuffled[int(entry.path.stem)] for entry in session.catalogue.entries]
        for labels in _BUDGETS:
            labelled = _label(session, truth, labels) if order == _ACTIVE else range(labels)
            fitted = [number for number in labelled if not session.is_random(number)]
            right = _fit(config, session, truth, part.test, fitted, seed, follow=order == _ACTIVE)
            yield {
                "set": division.name,
                "order": order,
                "seed": seed,
                "labels": labels,
                "fitted": len(fitted),
                "read": right,
                "test": len(part.test),
                "machine": machine(),
            }


def _label(session: Session, truth: Sequence[Labelled], labels: int) -> list[int]:
    """Labels the pictures that the session shows until there are `labels` labels. Returns the indices of all labelled pictures."""
    while session.decisions.counts()["labelled"] < labels:
        number = session.next(_WINDOW)
        assert number is not None, "the folder has more pictures"
        session.decide(_WINDOW, number, 0, Kind.LABEL, truth[number].label)
    return [number for number in range(len(truth)) if session.decisions.label(number) is not None]


def _fit(
    config: Config,
    session: Session,
    truth: Sequence[Labelled],
    test: Sequence[Labelled],
    fitted: Sequence[int],
    seed: int,
    *,
    follow: bool,
) -> int:
    """Fits a model, and returns how many test pictures it reads right. If `follow` is true, its readings then order the session."""
    spec = config.captcha
    parameters = config.trainer.model_copy(update={"seed": seed})
    others = sorted(set(range(len(truth))) - set(fitted)) if follow else []
    readings = fit_and_read([truth[number] for number in fitted], [*test, *(truth[number] for number in others)], spec, parameters)
    if follow:
        _follow(config, session, others, readings.labels[len(test) :], readings.logits[len(test) :])
    tested = slice(len(test))
    return (
        replace(readings, keys=readings.keys[tested], labels=readings.labels[tested], logits=readings.logits[tested])
        .counts(spec)
        .sequences_right
    )


def _follow(config: Config, session: Session, numbers: Sequence[int], labels: np.ndarray, logits: np.ndarray) -> None:
    """Does what `captcha-pipeline label` does for a training: writes the labels to a span, and orders the rest by the model's readings."""
    from components.training.calibration import temperature

    write_span(config, session.catalogue, session.decisions.unwritten())
    session.decisions.written(in_spans(config, session.catalogue))
    span = max(span_numbers(config.data.root))
    session.begin_model(span, session.decisions.counts()["labelled"])
    version = span  # any number that grows with each training
    session.use_model(version, span)
    judged = [place for place, number in enumerate(numbers) if session.is_random(number) and session.decisions.label(number) is not None]
    probabilities = softmax(logits / temperature(logits[judged], labels[judged]), axis=-1)
    ids, chosen = read(probabilities, config.captcha.min_length)
    found = {
        number: (config.captcha.decode(row), float(confidence))
        for number, row, confidence in zip(numbers, ids.tolist(), chosen.prod(axis=1), strict=True)
    }
    session.note_readings(version, found)
    session.follow_model()


def table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: one row for each set and number of labels."""
    columns = [
        "set",
        "labels",
        "test pictures",
        "random order, per seed",
        "order of the page, per seed",
        "random labels for the same accuracy",
        "ratio",
        "goal",
    ]
    groups: dict[tuple[str, int], dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: {order: {} for order in _ORDERS})
    for row in rows:
        groups[row["set"], row["labels"]][row["order"]][row["seed"]] = row
    lines = []
    for (name, labels), by_order in sorted(groups.items()):
        random_curve = {
            number: _error(found[_RANDOM].values()) for (other, number), found in sorted(groups.items()) if other == name and found[_RANDOM]
        }
        page = by_order[_ACTIVE].values()
        equal = _labels_for(_error(page), random_curve) if page and random_curve else ""
        lines.append(
            [
                name,
                str(labels),
                f"{next(row['test'] for runs in by_order.values() for row in runs.values()):,}",
                *(_per_seed(by_order[order]) for order in (_RANDOM, _ACTIVE)),
                f"{equal:.0f}" if isinstance(equal, float) else equal,
                f"{labels / equal:.2f}" if isinstance(equal, float) else "",
                f"at most {_GOAL}",
            ]
        )
    return columns, lines


def _per_seed(runs: dict[int, dict[str, Any]]) -> str:
    return ", ".join(f"{runs[seed]['read'] / runs[seed]['test']:.1%}" for seed in sorted(runs))


def _error(rows: Iterable[dict[str, Any]]) -> float:
    """Returns the mean share of misread pictures over the seeds. It is above 0, because no mistake counts as half a mistake."""
    return statistics.mean(max(row["test"] - row["read"], 0.5) / row["test"] for row in rows)


def _labels_for(error: float, curve: dict[int, float]) -> float | str:
    """Returns how many random labels give the same error; a text if the error is outside the measured curve.

    Args:
      error: the share of misread pictures.
      curve: this share by the number of random labels.
    """
    labels = sorted(curve)
    errors = np.minimum.accumulate([curve[number] for number in labels])
    if error > errors[0]:
        return f"fewer than {labels[0]}"
    if error < errors[-1]:
        return f"more than {labels[-1]}"
    return float(math.exp(np.interp(-math.log(error), -np.log(errors), np.log(labels))))


if __name__ == "__main__":
    silence()
    typer.run(main)
