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
ONLY_CHALLENGER: Final = "only_challenger_right"  # pictures that it alone reads whole
ONLY_CHAMPION: Final = "only_champion_right"  # likewise, the model in production
SLICES: Final = (features.CHARACTERS, features.SOURCE, features.DIFFICULTY, features.SPAN)

_BUFFERED: Final = 512  # examples counted at once: one call of NumPy costs as much as some hundred examples do


def eval_config(spec: CaptchaSpec, *, confidence: float, source_digest: str) -> config_pb2.EvalConfig:
    """Returns what TFMA is to compute. Whether that is good enough is for components/judgement.py to say.

    The metrics are computed over everything and over the SLICES: the examples whose text holds a given character, those from a given
    source, of a given difficulty, of a given span. The Evaluator adds the second model where there is a baseline.

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
    if model_names and tfma.BASELINE_KEY in model_names:
        computations.append(_pairs([tfma.CANDIDATE_KEY, tfma.BASELINE_KEY], (num_positions, num_classes)))
    return computations


def _pairs(models: list[str], shape: tuple[int, int]) -> tfma.metrics.MetricComputation:
    keys = [tfma.metrics.MetricKey(name, model_name=models[0], example_weighted=None) for name in (ONLY_CHALLENGER, ONLY_CHAMPION)]
    return tfma.metrics.MetricComputation(keys, [_Pairs(models, *shape)], _CountPairs(keys))


class _Pairs(tfma.metrics.Preprocessor):
    """Reduces an example to int64 [2]: whether the first model alone reads it whole, whether the second alone does."""

    def __init__(self, models: list[str], num_positions: int, num_classes: int):
        super().__init__(name="pairs")
        self._models = models
        self._shape = (num_positions, num_classes)

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        inputs = tfma.metrics.StandardMetricInputs(extracts)
        first, second = (self._is_right(inputs, model) for model in self._models)
        yield np.array([first and not second, second and not first], np.int64)

    def _is_right(self, inputs: Any, model: str) -> bool:
        predicted_ids, _ = read(inputs.get_predictions(model)[features.PROBABILITIES].reshape(self._shape))
        return bool((predicted_ids == inputs.get_labels(model).reshape(-1)).all())


class _CountPairs(beam.CombineFn):
    def __init__(self, keys: list[tfma.metrics.MetricKey]):
        self._keys = keys

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(2, np.int64)

    def add_input(self, accumulator: np.ndarray, pair: np.ndarray) -> np.ndarray:
        return accumulator + pair

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, self.create_accumulator())

    def extract_output(self, accumulator: np.ndarray) -> dict[tfma.metrics.MetricKey, float]:
        return dict(zip(self._keys, accumulator.astype(float).tolist(), strict=True))


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
