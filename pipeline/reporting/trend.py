"""The trend: one self-contained HTML file about all retrainings of a deployment.

All figures have one column per retraining, at the same horizontal position, so that a retraining can be read down the page.
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

SETS: Final = ("golden set", "newest span")  # test sets to show; "all" if there is neither
MIN_ERROR_SCALE: Final = 0.01  # the axis of accuracy starts at 99 % or lower: a narrower range would show only noise
TICKS: Final = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # misread shares that may get a grid line
TICK_DISTANCE: Final = 0.13  # least distance of grid lines, as a share of the axis


@dataclass(frozen=True)
class _Reading:
    """The full-sequence accuracy of one retraining on one test set. Unknown rates are None.

    Attributes:
      place: number of the retraining, from 0.
      candidate: rate of the candidate model.
      before: rate of the model that was in production before.
      after: rate of the model that was in production afterwards.
    """

    place: int
    candidate: Rate | None
    before: Rate | None
    after: Rate | None

    @property
    def rates(self) -> list[Rate]:
        return [rate for rate in (self.candidate, self.before) if rate]


def trend_page(config: Config) -> Path:
    """Returns the path of the trend page, which is in the folder of the reports."""
    return Path(config.report_dir) / "trend.html"


def write_trend_page(config: Config) -> Path:
    """Writes the trend page and returns its path. Raises CaptchaPipelineError as `pipeline.runs.outcomes.retrainings`."""
    path = trend_page(config)
    write_trend(config.name, all_retrainings(config), path, in_production(config))
    return path


def write_trend(title: str, retrainings: Sequence[Retraining], path: Path, production: Production | None) -> None:
    """Writes the page to `path` as UTF-8. The file appears complete or not at all. Missing folders are created.

    Args:
      title: title of the page, such as the name of the pipeline.
      retrainings: in the order of their start.
      path: of the page.
      production: the current production model; None if there is none.
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
    """Returns the newest known rate of the production model on a test set, and the place of the retraining that measured it."""
    for place, it in reversed(list(enumerate(retrainings))):
        if production and name in it.sets and (rate := _known(production.rate(it.sets[name], it.fingerprint, it.production_fingerprint))):
            return rate, place
    return None


def _readings(name: str, retrainings: Sequence[Retraining]) -> list[_Reading]:
    """Returns the readings of all retrainings that have a rate on the test set `name`."""
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
    """Returns the misread share at the bottom of the axis, chosen so that every interval fits."""
    largest = max(1 - rate.lower for reading in readings for rate in reading.rates)
    return min(filters.nice_ceiling(max(largest, MIN_ERROR_SCALE)), 1.0)


def _ticks(scale: float) -> list[float]:
    """Returns the misread shares with a grid line: both ends of the axis, and round values that are far enough from other lines."""
    ticks = [0.0, scale]
    for share in TICKS:
        if share < scale and all(abs((share / scale) ** 0.5 - (tick / scale) ** 0.5) >= TICK_DISTANCE for tick in ticks):
            ticks.append(share)
    return ticks


def _drift(retrainings: Sequence[Retraining]) -> dict[str, list[tuple[int, float]]]:
    """Returns, by measure, pairs of the retraining's place and its distance divided by the threshold. Measures appear in order of use."""
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
    """Returns distance divided by threshold. With a threshold of 0 any distance is infinitely far above it."""
    return distance / threshold if threshold else math.inf if distance else 0.0
