"""A retraining: one run, the decision on its model, and the model in production."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from components.evaluation.gate import SetResult
from components.evaluation.metrics import Rate

Decision = Literal["pushed", "withdrawn", "not blessed", "stopped"]  # stopped: the run did not come to its end


@dataclass(frozen=True)
class Retraining:
    """One run and what came of it.

    `trigger` says why it was started, "" where that is not on record. `pictures` are those to train on, None where their number
    is not known. `drift` has the distance of each measure, such as "brightness", and its threshold; it is empty where there was
    nothing to compare. `sets` may have "all", "newest span" and "golden set". `why` says what kept the model from being pushed,
    and `warnings` what else to know of its figures, one sentence each. `fingerprint` is that of the model, `baseline` that of the model in
    production that it was compared with, None where it is not known. `report` is where the run's report lies, relative to the
    trend's folder.
    """

    run_id: str
    started: datetime
    seconds: float
    trigger: str
    spans: tuple[int, ...]
    pictures: int | None
    drift: Mapping[str, tuple[float, float]]
    sets: Mapping[str, SetResult]
    decision: Decision
    why: tuple[str, ...]
    version: str | None
    fingerprint: str | None = None
    baseline: str | None = None
    report: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def drifted(self) -> list[str]:
        """The measures whose distance is above the threshold."""
        return [measure for measure, (distance, threshold) in self.drift.items() if distance > threshold]


@dataclass(frozen=True)
class Production:
    """The model in production: the newest version in the serving folder.

    `original` is the version that a run pushed: `version` itself, or the one that a rollback has made a copy of. `fingerprint` is that of
    the model, None where someone else has put it there.
    """

    version: str
    original: str
    fingerprint: str | None

    def rate(self, comparison: SetResult, fingerprint: str | None, baseline: str | None) -> Rate | None:
        """Returns this model's rate in a comparison of the models with these two fingerprints; None if it is neither of them."""
        if self.fingerprint is None:
            return None
        return {baseline: comparison.production, fingerprint: comparison.candidate}.get(self.fingerprint)


def retraining_of(production: Production | None, retrainings: Sequence[Retraining]) -> Retraining | None:
    """Returns the retraining that pushed the model in production; None if it is none of these."""
    return next((it for it in reversed(retrainings) if production and it.version == production.original), None)
