"""The figures of `metrics.py` as a TFMA metric, and the EvalConfig that asks for them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.captcha import CaptchaSpec
from components.metrics import Rate, ReadingCounts, Results, read

SEQUENCE_ACCURACY: Final = "sequence_accuracy"
POSITION_ACCURACY: Final = "position_accuracy"  # and _1 for the first position, _2, …
SLICES: Final = (features.CHARACTERS, features.SOURCE, features.DIFFICULTY)

_BUFFERED: Final = 512  # examples counted at once: one call of NumPy costs as much as some hundred examples do
# TFMA subtracts in floating point: 0.990 - 0.995 is a hair below -0.005.
_ROUNDING: Final = 1e-9


def eval_config(spec: CaptchaSpec, *, confidence: float, source_digest: str) -> config_pb2.EvalConfig:
    """Returns what TFMA is to compute; `set_thresholds` adds what a model must meet.

    The metrics are computed over everything and over three kinds of slices: the examples whose text holds a given character,
    those from a given source, and those of a given difficulty. The Evaluator adds the second model where there is a baseline.

    Args:
      spec: what the model reads.
      confidence: of the intervals, such as 0.95.
      source_digest: of the code behind the figures. TFX compares configurations to tell whether a result can be reused.
    """
    metric = config_pb2.MetricConfig(
        class_name=CaptchaMetrics.__name__,
        module=CaptchaMetrics.__module__,
        config=json.dumps(
            {
                "num_positions": spec.max_length,
                "num_classes": spec.num_classes,
                "confidence": confidence,
                "source_digest": source_digest,
            },
            sort_keys=True,
        ),
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name="serving_examples",
                preprocessing_function_names=["transform_features"],
                label_key=features.LABEL_IDS,
            )
        ],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[metric])],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[key]) for key in SLICES)],
        options=config_pb2.Options(include_default_metrics={"value": False}),
    )


def set_thresholds(config: config_pb2.EvalConfig, *, min_sequence_accuracy: float, max_regression: float) -> None:
    """Sets the two thresholds that a model must meet over the whole split to be blessed, in place.

    Args:
      config: by `eval_config`.
      min_sequence_accuracy: the least full-sequence accuracy, 0 to 1.
      max_regression: how far it may be below the baseline's; not looked at where there is no baseline.
    """
    threshold = config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": min_sequence_accuracy}),
        change_threshold=config_pb2.GenericChangeThreshold(
            direction=config_pb2.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -max_regression - _ROUNDING}
        ),
    )
    overall = config_pb2.PerSliceMetricThresholds(
        thresholds=[config_pb2.PerSliceMetricThreshold(slicing_specs=[config_pb2.SlicingSpec()], threshold=threshold)]
    )
    config.metrics_specs[0].per_slice_thresholds[SEQUENCE_ACCURACY].CopyFrom(overall)


def to_metrics(results: Results) -> dict[str, float | np.ndarray]:
    """Returns the figures under the names that TFMA stores them by."""
    rates = {SEQUENCE_ACCURACY: results.sequence_accuracy}
    rates |= {f"{POSITION_ACCURACY}_{position}": rate for position, rate in enumerate(results.position_accuracy, start=1)}
    values: dict[str, float | np.ndarray] = {"example_count": float(results.example_count)}
    for name, rate in rates.items():
        values |= {name: rate.value, f"{name}_lower": rate.lower, f"{name}_upper": rate.upper}
    return values | {
        "character_precision": results.character_precision,
        "character_recall": results.character_recall,
        "confusion_matrix": results.confusion_matrix,
        "expected_calibration_error": results.expected_calibration_error,
        "calibration_count": results.calibration_count,
        "calibration_confidence": results.calibration_confidence,
        "calibration_accuracy": results.calibration_accuracy,
    }


def from_metrics(values: Mapping[str, Any]) -> Results:
    """The inverse of `to_metrics`."""

    def rate(name: str) -> Rate:
        return Rate(values[name], values[f"{name}_lower"], values[f"{name}_upper"])

    num_positions = sum(name.startswith(POSITION_ACCURACY) and name.endswith("_upper") for name in values)
    return Results(
        example_count=int(values["example_count"]),
        sequence_accuracy=rate(SEQUENCE_ACCURACY),
        position_accuracy=tuple(rate(f"{POSITION_ACCURACY}_{position}") for position in range(1, num_positions + 1)),
        character_precision=values["character_precision"],
        character_recall=values["character_recall"],
        confusion_matrix=values["confusion_matrix"],
        expected_calibration_error=values["expected_calibration_error"],
        calibration_count=values["calibration_count"],
        calibration_confidence=values["calibration_confidence"],
        calibration_accuracy=values["calibration_accuracy"],
    )


class CaptchaMetrics(tfma.metrics.Metric):
    """Every figure of `metrics.Results`, from one combiner of counts.

    TFMA makes it from the configuration that `eval_config` writes. Labels are class ids [num_positions]; predictions are a
    dictionary with the probabilities [num_positions, num_classes].
    """

    def __init__(self, num_positions: int, num_classes: int, confidence: float, source_digest: str = "", name: str = "captcha"):
        super().__init__(
            _computations,
            num_positions=num_positions,
            num_classes=num_classes,
            confidence=confidence,
            source_digest=source_digest,
            name=name,
        )


def _computations(
    num_positions: int, num_classes: int, confidence: float, source_digest: str, name: str, model_names: list[str] | None = None
) -> list[tfma.metrics.MetricComputation]:
    del source_digest, name  # the first is there to be compared, the second for TFMA
    names = to_metrics(ReadingCounts(num_positions, num_classes).results(confidence))
    computations = []
    for model in model_names or [""]:
        # None, not False: so TFMA looks up a threshold that is given by the name of a metric.
        keys = {key: tfma.metrics.MetricKey(key, model_name=model, example_weighted=None) for key in names}
        combiner = _CountReadings(keys, num_positions, num_classes, confidence)
        computations.append(tfma.metrics.MetricComputation(list(keys.values()), [_Readings(model, num_positions, num_classes)], combiner))
    return computations


class _Readings(tfma.metrics.Preprocessor):
    """Reduces an example, before it is handed to each of its slices, to one row: label ids, ids read, confidence."""

    def __init__(self, model_name: str, num_positions: int, num_classes: int):
        super().__init__(name=f"readings of {model_name}")
        self._model_name = model_name
        self._shape = (num_positions, num_classes)

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        inputs = tfma.metrics.StandardMetricInputs(extracts)
        probabilities = inputs.get_predictions(self._model_name or None)[features.PROBABILITIES].reshape(self._shape)
        label_ids = inputs.get_labels(self._model_name or None).reshape(-1)
        yield np.concatenate((label_ids, *map(np.atleast_1d, read(probabilities))))


class _Accumulator:
    def __init__(self, num_positions: int, num_classes: int):
        self.counts = ReadingCounts(num_positions, num_classes)
        self.rows: list[np.ndarray] = []

    def flush(self) -> None:
        if self.rows:
            rows = np.stack(self.rows)
            label_ids, predicted_ids = np.split(rows[:, :-1].astype(np.int64), 2, axis=1)
            self.counts.add_readings(label_ids, predicted_ids, rows[:, -1])
            self.rows = []


class _CountReadings(beam.CombineFn):
    def __init__(self, keys: dict[str, tfma.metrics.MetricKey], num_positions: int, num_classes: int, confidence: float):
        self._keys = keys
        self._shape = (num_positions, num_classes)
        self._confidence = confidence

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator(*self._shape)

    def add_input(self, accumulator: _Accumulator, row: np.ndarray) -> _Accumulator:
        accumulator.rows.append(row)
        if len(accumulator.rows) >= _BUFFERED:
            accumulator.flush()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            accumulator.flush()
            merged.counts.merge(accumulator.counts)
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        accumulator.flush()
        return accumulator

    def extract_output(self, accumulator: _Accumulator) -> dict[tfma.metrics.MetricKey, Any]:
        accumulator.flush()
        values = to_metrics(accumulator.counts.results(self._confidence))
        return {key: values[name] for name, key in self._keys.items()}
