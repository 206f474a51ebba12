"""The content of the report of a run, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from components.evaluation.gate import SetResult
from components.evaluation.metrics import Rate, Results


@dataclass(frozen=True)
class Step:
    """A step of the run.

    Attributes:
      node: name of the step.
      state: as in `pipeline.runs.history.State`.
      seconds: duration; None if unknown.
      engine: the Beam engine of the step; "" for the machine of the run.
    """

    node: str
    state: str
    seconds: float | None
    engine: str = ""


@dataclass(frozen=True)
class Slice:
    """The full-sequence accuracy over the `count` examples of a slice of the test split, such as "low contrast" of group "difficulty"."""

    group: str
    name: str
    count: int
    accuracy: Rate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of the Evaluator on the test split.

    Attributes:
      results: accuracy, confusion and calibration.
      classes: the model's classes in order; the last may be "", the blank ("no character here").
      slices: accuracy by slice.
      production: full-sequence accuracy of the production model on the same pictures; None without a production model.
      sets: results by test set that judged the model, such as "golden set". On the set BEST, the other model is the best model so far
        instead of the production model.
      confidence: confidence level of all intervals, 0 to 1.
    """

    results: Results
    classes: Sequence[str]
    slices: Sequence[Slice] = ()
    production: Rate | None = None
    sets: Mapping[str, SetResult] = field(default_factory=dict)
    confidence: float = 0.95


@dataclass(frozen=True)
class Misread:
    """A misread picture of the test split: its encoded bytes, its label, the predicted text and the confidence, 0 to 1."""

    picture: bytes
    truth: str
    prediction: str
    confidence: float


@dataclass(frozen=True)
class QuarantineExample:
    """One refused record.

    Attributes:
      file: name of the shard.
      index: number of the record in the shard.
      detail: what is wrong with it.
      picture: its encoded picture, which may be any bytes; None if it has none.
    """

    file: str
    index: int
    detail: str
    picture: bytes | None


@dataclass(frozen=True)
class QuarantineReason:
    """A reason for the quarantine, the number of its records, and a few examples."""

    reason: str
    count: int
    examples: Sequence[QuarantineExample]


@dataclass(frozen=True)
class Quarantine:
    """The records that were left out.

    Attributes:
      total: number of records read.
      bad: number of invalid records.
      reasons: invalid records by reason.
      overlap: records left out because of another record of their picture, in the test or eval split or in a later span. They do not
        count as bad.
    """

    total: int
    bad: int
    reasons: Sequence[QuarantineReason]
    overlap: Sequence[QuarantineReason] = ()


@dataclass(frozen=True)
class Summary:
    """Statistics of a numeric feature over a split."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a split.

    Attributes:
      split: its name.
      count: number of pictures.
      drawn: number of drawn pictures among them.
      characters: occurrences by character, over all labels.
      numbers: summaries by feature, such as "brightness".
    """

    split: str
    count: int
    drawn: int
    characters: Mapping[str, int]
    numbers: Mapping[str, Summary]


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of the newest span from the other spans of the window. Both mappings are empty if there is no other span.

    Attributes:
      newest: name of the newest span.
      distances: by measure, the distance and its threshold, 0 to 1. The threshold is None for a measure without a limit.
      histograms: by measure, the shares of the grey levels 0 to 255 in the newest span and in the other spans.
    """

    newest: str
    distances: Mapping[str, tuple[float, float | None]]
    histograms: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """The content of the report. The report says that empty and None values are missing.

    Attributes:
      title: name of the pipeline.
      run_id: ID of the run.
      started: start of the run.
      blessed: whether the model was blessed; None if it was not evaluated.
      failures: reasons why the model was not blessed or the run did not finish.
      warnings: remarks that a reader of the figures should know.
      advice: ways to improve a model below the accuracy floor.
      pushed_version: the version of the model in the serving folder; None if nothing was pushed.
      base_problem: why the fit could not continue from the production model, or only in part; "" if there was no problem.
      steps: the steps in the order in which they ran.
      evaluation: results on the test split.
      history: one mapping per epoch, with the keys loss, val_loss, sequence_accuracy, val_sequence_accuracy, val_cross_entropy and seconds,
        each of which may be missing.
      misread: misread pictures of the test split.
      quarantine: records that were left out.
      splits: statistics of each split.
      drift: drift of the newest span.
      config: the configuration, in YAML.
      versions: versions of libraries by name.
    """

    title: str
    run_id: str
    started: datetime
    blessed: bool | None
    failures: Sequence[str] = ()
    warnings: Sequence[str] = ()
    advice: Sequence[str] = ()
    pushed_version: str | None = None
    base_problem: str = ""
    steps: Sequence[Step] = ()
    evaluation: Evaluation | None = None
    history: Sequence[Mapping[str, float]] = ()
    misread: Sequence[Misread] = ()
    quarantine: Quarantine | None = None
    splits: Sequence[SplitStatistics] = ()
    drift: Drift | None = None
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
