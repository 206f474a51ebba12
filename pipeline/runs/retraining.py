"""The record of a retraining: one run, the decision on its model, and the production model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from components.evaluation.gate import SetResult
from components.evaluation.metrics import Rate

Decision = Literal["pushed", "withdrawn", "not blessed", "stopped"]  # stopped: the run did not finish


@dataclass(frozen=True)
class Retraining:
    """One run and its outcome.

    Attributes:
      run_id: the name of the run.
      started: the time of its start, in UTC.
      seconds: the time of all its steps.
      trigger: why it was started; "" if that is not on record.
      spans: the numbers of the spans in its window.
      pictures: the number of training pictures; None if it is unknown.
      drift: the distance and the threshold of each measure, such as "brightness"; empty if there was nothing to compare.
      sets: the results on the sets "all", "newest span" and "golden set", as far as they were measured.
      decision: the decision on its model.
      why: the reasons that kept the model from being pushed, one sentence each.
      version: the pushed version; None if nothing was pushed.
      fingerprint: the fingerprint of the model.
      production_fingerprint: the fingerprint of the production model that it was compared with; None if it is unknown.
      report: the path of the run's report, relative to the folder of the trend page; None if it does not exist.
      warnings: further remarks on the figures, one sentence each.
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
    production_fingerprint: str | None = None
    report: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def drifted(self) -> list[str]:
        """The measures whose distance is above the threshold."""
        return [measure for measure, (distance, threshold) in self.drift.items() if distance > threshold]


@dataclass(frozen=True)
class Production:
    """The production model: the newest version in the serving folder.

    Attributes:
      version: the version.
      original: the version that a run pushed: `version` itself, or the version that a rollback copied.
      fingerprint: the fingerprint of the model; None if someone else put the model there.
    """

    version: str
    original: str
    fingerprint: str | None

    def rate(self, comparison: SetResult, candidate: str | None, production: str | None) -> Rate | None:
        """Returns this model's rate in a comparison of the models with these two fingerprints; None if it is neither of the two."""
        if self.fingerprint is None:
            return None
        return {production: comparison.production, candidate: comparison.candidate}.get(self.fingerprint)


def retraining_of(production: Production | None, retrainings: Sequence[Retraining]) -> Retraining | None:
    """Returns the retraining that pushed the production model; None if none of them did."""
    return next((it for it in reversed(retrainings) if production and it.version == production.original), None)
