"""The trend: one HTML file over all the retrainings of a deployment, which needs nothing else, like the report of a run.

Every figure has one place a retraining, at the same distance
from the left in all of them, so that a retraining is read down a column.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.files import write_whole
from components.evaluation.metrics import Rate
from pipeline.config.config import Config
from pipeline.reporting import filters
from pipeline.runs.outcomes import production as in_production
from pipeline.runs.outcomes import retrainings as all_retrainings
from pipeline.runs.retraining import Production, Retraining, retraining_of

SETS: Final = ("golden set", "newest span")  # those shown; where there is neither, "all"
MIN_ERROR_SCALE: Final = 0.01  # the axis of accuracy does not begin above 99 %: closer up, all is noise
TICKS: Final = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # shares misread that may have a line
TICK_DISTANCE: Final = 0.13  # at least, as a share of the axis


@dataclass(frozen=True)
class _Reading:
    """What is known of one retraining on one set. `place` is its number in the sequence, from 0; rates that are NaN are None."""

    place: int
    candidate: Rate | None
    before: Rate | None
    after: Rate | None  # of the model that was in production afterwards

    @property
    def rates(self) -> list[Rate]:
        return [rate for rate in (self.candidate, self.before) if rate]


def trend_page(config: Config) -> Path:
    """Returns where the page over all runs lies: beside their reports."""
    return Path(config.report_dir) / "trend.html"


def write_trend_page(config: Config) -> Path:
    """Writes the page over all runs, and returns where it is. Raises CaptchaPipelineError as `retrainings`."""
    path = trend_page(config)
    write_trend(config.name, all_retrainings(config), path, in_production(config))
    return path


def write_trend(title: str, retrainings: Sequence[Retraining], path: Path, production: Production | None) -> None:
    """Writes the page to `path` as UTF-8, whole or not at all, and makes the folder if need be.

    Args:
      title: of what is retrained, such as the name of the configuration.
      retrainings: in the order in which they began.
      path: of the page.
      production: the model in production now; None for none.
    """
    sets = [name for name in SETS if any(_readings(name, retrainings))] or ["all"]
    readings = {name: found for name in sets if (found := _readings(name, retrainings))}
    html = filters.template("trend.html.j2").render(
        title=title,
        retrainings=retrainings,
        production=production,
        pushed_by=retraining_of(production, retrainings),
        production_rates={name: _rate_in_production(name, retrainings, production) for name in readings},
        sets=sets,
        readings=readings,
        error_scales={name: _error_scale(found) for name, found in readings.items()},
        drift=_drift(retrainings),
        ticks=_ticks,
    )
    write_whole(path, html)


def _rate_in_production(name: str, retrainings: Sequence[Retraining], production: Production | None) -> tuple[Rate, int] | None:
    """The newest rate on a set that the model in production had, and the place of the retraining that measured it."""
    for place, it in reversed(list(enumerate(retrainings))):
        if production and name in it.sets and (rate := _known(production.rate(it.sets[name], it.fingerprint, it.baseline))):
            return rate, place
    return None


def _readings(name: str, retrainings: Sequence[Retraining]) -> list[_Reading]:
    """The retrainings with a figure on the set."""
    readings = []
    for place, retraining in enumerate(retrainings):
        if comparison := retraining.sets.get(name):
            candidate, before = _known(comparison.candidate), _known(comparison.production)
            reading = _Reading(place, candidate, before, candidate if retraining.decision == "pushed" else before)
            if reading.rates:
                readings.append(reading)
    return readings


def _known(rate: Rate | None) -> Rate | None:
    return rate if rate and all(map(math.isfinite, (rate.value, rate.lower, rate.upper))) else None


def _error_scale(readings: Sequence[_Reading]) -> float:
    """The share misread at the foot of the axis: every interval fits."""
    largest = max(1 - rate.lower for reading in readings for rate in reading.rates)
    return min(filters.nice_ceiling(max(largest, MIN_ERROR_SCALE)), 1.0)


def _ticks(scale: float) -> list[float]:
    """The shares misread that have a line: both ends, and round ones between that are far enough from the others."""
    ticks = [0.0, scale]
    for share in TICKS:
        if share < scale and all(abs((share / scale) ** 0.5 - (tick / scale) ** 0.5) >= TICK_DISTANCE for tick in ticks):
            ticks.append(share)
    return ticks


def _drift(retrainings: Sequence[Retraining]) -> dict[str, list[tuple[int, float]]]:
    """By measure, in the order in which they appear, the places of the retrainings and the distance over the threshold."""
    measures = dict.fromkeys(itertools.chain.from_iterable(retraining.drift for retraining in retrainings))
    return {
        measure: [
            (place, _over(*retraining.drift[measure]))
            for place, retraining in enumerate(retrainings)
            if measure in retraining.drift and not any(map(math.isnan, retraining.drift[measure]))
        ]
        for measure in measures
    }


def _over(distance: float, threshold: float) -> float:
    """A threshold of 0 lets nothing differ at all."""
    return distance / threshold if threshold else math.inf if distance else 0.0
