"""The figures of `metrics.py` as a TFMA metric, and the EvalConfig that asks for them.

A slice has what it is judged by: how many pictures there are, and how many of them each model reads whole. All other figures are of all
pictures together only: a charset of thousands makes thousands of slices, each of which would have a confusion matrix of millions of cells.
TFMA hands an example to all of its slices at once; `extractors` has it hand each over twice, to the set of all pictures and to its slices.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from scipy.sparse import csr_array
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.extractors.extractor import Extractor
from tensorflow_model_analysis.proto import config_pb2

from components.base import features
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden
from components.evaluation.metrics import Rate, ReadingCounts, Results, read, wilson_interval

EXAMPLE_COUNT: Final = "example_count"
SEQUENCE_ACCURACY: Final = "sequence_accuracy"
POSITION_ACCURACY: Final = "position_accuracy"  # and _1 for the first position, _2, …
ONLY_CHALLENGER: Final = "only_challenger_right"  # pictures that it alone reads whole
ONLY_CHAMPION: Final = "only_champion_right"  # likewise, the model in production
NUM_CLASSES: Final = "num_classes"
CONFUSION: Final = "confusion"  # int64 [cells, 3]: truth, reading and how often, of the cells that are not zero
GOLDEN_READINGS: Final = "golden_readings"  # int64 [pictures, 2]: digest, and whether it is read whole
SLICES: Final = (features.CHARACTERS, features.SOURCE, features.DIFFICULTY, features.SPAN)

Keys = Mapping[str, tfma.metrics.MetricKey]  # by name
Shape = tuple[int, int, int]  # the arguments of ReadingCounts: number of positions, number of classes, length of the shortest text

_BUFFERED: Final = 512  # examples counted at once: one call of NumPy costs as much as some hundred examples do


def eval_config(spec: CaptchaSpec, *, confidence: float, source_digest: str, golden_span: str = "") -> config_pb2.EvalConfig:
    """Returns what TFMA is to compute. Whether that is good enough is for components/evaluation/gate.py to say.

    The metrics are computed over everything and over the SLICES: the examples whose text holds a given character, those from a given
    source, of a given difficulty, of a given span. The Evaluator adds the second model where there is a baseline.

    Args:
      spec: what the model reads.
      confidence: of the intervals, such as 0.95.
      source_digest: of the code behind the figures. TFX compares configurations to tell whether a result can be reused.
      golden_span: the name of the span whose pictures are noted one by one; "" for none.
    """
    metric = config_pb2.MetricConfig(
        class_name=CaptchaMetrics.__name__,
        module=CaptchaMetrics.__module__,
        config=json.dumps(
            {
                "num_positions": spec.max_length,
                "num_classes": spec.num_classes,
                "min_length": spec.min_length,
                "confidence": confidence,
                "source_digest": source_digest,
                "golden_span": golden_span,
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


def extractors(eval_shared_model: Any, eval_config: config_pb2.EvalConfig, tensor_adapter_config: Any) -> list[Extractor]:
    """Returns TFMA's own extractors, the last of which hands each example over twice: to the set of all pictures, and to its slices."""
    *others, slicing = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    # TFMA's evaluator takes what leaves the stage of this name, not what leaves the last one.
    return [*others, Extractor(slicing.stage_name, slicing.ptransform | "AllApart" >> beam.ParDo(_AllApart()))]


class _AllApart(beam.DoFn):
    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        keys = list(extracts[constants.SLICE_KEY_TYPES_KEY])
        for part in ([key for key in keys if not key], [key for key in keys if key]):
            yield extracts | {constants.SLICE_KEY_TYPES_KEY: part}


def _is_of_all(extracts: Mapping[str, Any]) -> bool:
    """Whether an example is on its way to the set of all pictures, whose key is ()."""
    return any(not key for key in extracts[constants.SLICE_KEY_TYPES_KEY])


def to_metrics(results: Results) -> dict[str, float | np.ndarray]:
    """Returns the figures under the names that TFMA stores them by."""
    values: dict[str, float | np.ndarray] = {EXAMPLE_COUNT: float(results.example_count)}
    values |= _to_rate(SEQUENCE_ACCURACY, results.sequence_accuracy)
    for position, rate in enumerate(results.position_accuracy, start=1):
        values |= _to_rate(f"{POSITION_ACCURACY}_{position}", rate)
    confusion = results.confusion_matrix.tocoo()
    return values | {
        NUM_CLASSES: float(confusion.shape[0]),
        "position_count": results.position_count,
        "character_precision": results.character_precision,
        "character_recall": results.character_recall,
        CONFUSION: np.stack((confusion.row, confusion.col, confusion.data), axis=1).astype(np.int64),
        "expected_calibration_error": results.expected_calibration_error,
        "calibration_count": results.calibration_count,
        "calibration_confidence": results.calibration_confidence,
        "calibration_accuracy": results.calibration_accuracy,
    }


def from_metrics(values: Mapping[str, Any]) -> Results:
    """The inverse of `to_metrics`."""
    num_classes = int(values[NUM_CLASSES])
    truth, reading, count = values[CONFUSION].astype(np.int64).T
    num_positions = sum(name.startswith(POSITION_ACCURACY) and name.endswith("_upper") for name in values)
    return Results(
        example_count=int(values[EXAMPLE_COUNT]),
        sequence_accuracy=rate_from(values, SEQUENCE_ACCURACY),
        position_accuracy=tuple(rate_from(values, f"{POSITION_ACCURACY}_{position}") for position in range(1, num_positions + 1)),
        position_count=values["position_count"],
        character_precision=values["character_precision"],
        character_recall=values["character_recall"],
        confusion_matrix=csr_array((count, (truth, reading)), shape=(num_classes, num_classes)),
        expected_calibration_error=values["expected_calibration_error"],
        calibration_count=values["calibration_count"],
        calibration_confidence=values["calibration_confidence"],
        calibration_accuracy=values["calibration_accuracy"],
    )


def rate_from(values: Mapping[str, Any], name: str) -> Rate:
    """Returns the rate that is stored by this name and those of its bounds."""
    return Rate(values[name], values[f"{name}_lower"], values[f"{name}_upper"])


def _to_rate(name: str, rate: Rate) -> dict[str, float]:
    return {name: rate.value, f"{name}_lower": rate.lower, f"{name}_upper": rate.upper}


class CaptchaMetrics(tfma.metrics.Metric):
    """Every figure of `metrics.Results`, and the comparison of two models.

    TFMA makes it from the configuration that `eval_config` writes. Labels are class ids [num_positions]; predictions are a
    dictionary with the probabilities [num_positions, num_classes].
    """

    def __init__(
        self,
        num_positions: int,
        num_classes: int,
        min_length: int,
        confidence: float,
        source_digest: str = "",
        golden_span: str = "",
        name: str = "captcha",
    ):
        super().__init__(
            _computations,
            num_positions=num_positions,
            num_classes=num_classes,
            min_length=min_length,
            confidence=confidence,
            source_digest=source_digest,
            golden_span=golden_span,
            name=name,
        )


def _computations(
    num_positions: int,
    num_classes: int,
    min_length: int,
    confidence: float,
    source_digest: str,
    golden_span: str,
    name: str,
    model_names: list[str] | None = None,
) -> list[tfma.metrics.MetricComputation]:
    del source_digest, name  # the first is there to be compared, the second for TFMA
    shape = (num_positions, num_classes, min_length)
    has_baseline = model_names and tfma.BASELINE_KEY in model_names
    models = [tfma.CANDIDATE_KEY, tfma.BASELINE_KEY] if has_baseline else [model_names[0] if model_names else ""]
    whole = _CountWhole(models, confidence)
    details = to_metrics(ReadingCounts(*shape).results(confidence)).keys() - {key.name for key in whole.keys}
    computations = [
        tfma.metrics.MetricComputation(whole.keys, [_Whole(models, shape)], whole),
        _of_all(models[0], sorted(details), _Readings(models[0], shape), lambda keys: _CountReadings(keys, shape, confidence)),
    ]
    if golden_span:
        preprocessor = _GoldenReadings(models[0], shape, golden_span)
        computations.append(_of_all(models[0], [GOLDEN_READINGS], preprocessor, _GatherGoldenReadings))
    return computations


def _key(name: str, model: str) -> tfma.metrics.MetricKey:
    # None, not False: so TFMA looks up a threshold that is given by the name of a metric.
    return tfma.metrics.MetricKey(name, model_name=model, example_weighted=None)


def _of_all(
    model: str, names: list[str], preprocessor: tfma.metrics.Preprocessor, combiner: Callable[[Keys], beam.CombineFn]
) -> tfma.metrics.MetricComputation:
    """A computation of one model over all pictures; in the slices it comes to nothing."""
    keys = {name: _key(name, model) for name in names}
    return tfma.metrics.MetricComputation(list(keys.values()), [preprocessor], combiner(keys))


class _Reader(tfma.metrics.Preprocessor):
    """Reduces an example, before it is handed to each of its slices, to what is counted of it."""

    def __init__(self, name: str, shape: Shape):
        super().__init__(name=name)
        self._shape = shape

    def _read(self, extracts: dict[str, Any], model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns label ids and ids read, each [num_positions], and the confidence, []."""
        inputs = tfma.metrics.StandardMetricInputs(extracts)
        num_positions, num_classes, min_length = self._shape
        probabilities = inputs.get_predictions(model or None)[features.PROBABILITIES].reshape(num_positions, num_classes)
        predicted_ids, chosen = read(probabilities, min_length)
        return inputs.get_labels(model or None).reshape(-1), predicted_ids, chosen.prod()

    def _is_right(self, extracts: dict[str, Any], model: str) -> bool:
        label_ids, predicted_ids, _ = self._read(extracts, model)
        return bool((predicted_ids == label_ids).all())


class _Whole(_Reader):
    """Yields int64 [1 + models + 2]: 1; for each model whether it reads the example whole; whether the first alone does, the last alone."""

    def __init__(self, models: list[str], shape: Shape):
        super().__init__(f"whole by {' and '.join(models)}", shape)
        self._models = models

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        right = [self._is_right(extracts, model) for model in self._models]
        yield np.array([1, *right, right[0] and not right[-1], right[-1] and not right[0]], np.int64)


class _CountWhole(beam.CombineFn):
    def __init__(self, models: list[str], confidence: float):
        self._models = models
        self._confidence = confidence

    @property
    def keys(self) -> list[tfma.metrics.MetricKey]:
        return list(self.extract_output(self.create_accumulator()))

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(3 + len(self._models), np.int64)

    def add_input(self, accumulator: np.ndarray, row: np.ndarray) -> np.ndarray:
        return accumulator + row

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, self.create_accumulator())

    def extract_output(self, accumulator: np.ndarray) -> dict[tfma.metrics.MetricKey, float]:
        count, *right, only_first, only_last = accumulator.tolist()
        first = self._models[0]
        values = {_key(EXAMPLE_COUNT, first): float(count)}
        for model, whole in zip(self._models, right, strict=True):
            rate = _to_rate(SEQUENCE_ACCURACY, wilson_interval(whole, count, self._confidence))
            values |= {_key(name, model): value for name, value in rate.items()}
        if len(self._models) > 1:
            values |= {_key(ONLY_CHALLENGER, first): float(only_first), _key(ONLY_CHAMPION, first): float(only_last)}
        return values


class _GoldenReadings(_Reader):
    """Yields int64 [2] of an example of the golden span: its digest, and whether it is read whole."""

    def __init__(self, model: str, shape: Shape, span: str):
        super().__init__("golden readings", shape)
        self._model = model
        self._span = span.encode()

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        if _is_of_all(extracts) and _only(extracts, features.SPAN) == self._span:
            name = golden.digest(_only(extracts, features.IMAGE), _only(extracts, features.LABEL).decode())
            yield np.array([name, self._is_right(extracts, self._model)], np.int64)


def _only(extracts: Mapping[str, Any], feature: str) -> bytes:
    value: bytes = np.asarray(extracts[constants.FEATURES_KEY][feature], object).item()
    return value


class _GatherGoldenReadings(beam.CombineFn):
    def __init__(self, keys: Keys):
        (self._key,) = keys.values()

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], row: np.ndarray) -> list[np.ndarray]:
        accumulator.append(row)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return list(itertools.chain.from_iterable(accumulators))

    def extract_output(self, accumulator: list[np.ndarray]) -> dict[tfma.metrics.MetricKey, Any]:
        return {self._key: np.stack(accumulator)} if accumulator else {}


class _Readings(_Reader):
    """Yields one row of an example: label ids, ids read, confidence."""

    def __init__(self, model: str, shape: Shape):
        super().__init__(f"readings of {model}", shape)
        self._model = model

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        if _is_of_all(extracts):
            yield np.concatenate([np.atleast_1d(part) for part in self._read(extracts, self._model)])


class _Accumulator:
    """`counts` is None where nothing has been counted, as in every slice."""

    def __init__(self, shape: Shape):
        self._shape = shape
        self.counts: ReadingCounts | None = None
        self.rows: list[np.ndarray] = []

    def flush(self) -> None:
        if self.rows:
            rows = np.stack(self.rows)
            label_ids, predicted_ids = np.split(rows[:, :-1].astype(np.int64), 2, axis=1)
            self.counts = self.counts or ReadingCounts(*self._shape)
            self.counts.add_readings(label_ids, predicted_ids, rows[:, -1])
            self.rows = []


class _CountReadings(beam.CombineFn):
    def __init__(self, keys: Keys, shape: Shape, confidence: float):
        self._keys = keys
        self._shape = shape
        self._confidence = confidence

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator(self._shape)

    def add_input(self, accumulator: _Accumulator, row: np.ndarray) -> _Accumulator:
        accumulator.rows.append(row)
        if len(accumulator.rows) >= _BUFFERED:
            accumulator.flush()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            accumulator.flush()
            if accumulator.counts:
                merged.counts = merged.counts or ReadingCounts(*self._shape)
                merged.counts.merge(accumulator.counts)
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        accumulator.flush()
        return accumulator

    def extract_output(self, accumulator: _Accumulator) -> dict[tfma.metrics.MetricKey, Any]:
        accumulator.flush()
        if accumulator.counts is None:
            return {}
        values = to_metrics(accumulator.counts.results(self._confidence))
        return {key: values[name] for name, key in self._keys.items()}
