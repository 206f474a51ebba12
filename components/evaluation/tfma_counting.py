"""The counts of TFMA: each example is read when it arrives, and Beam adds up the readings."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants

from components.base import features
from components.evaluation import golden
from components.evaluation.metrics import ReadingCounts, read, wilson_interval
from components.evaluation.tfma_values import EXAMPLE_COUNT, ONLY_CANDIDATE, ONLY_PRODUCTION, SEQUENCE_ACCURACY, rate_values, to_metrics

Keys = Mapping[str, tfma.metrics.MetricKey]  # by name
Shape = tuple[int, int, int]  # the arguments of ReadingCounts: num_positions, num_classes, min_length

_BUFFERED: Final = 512  # examples counted at once, because one NumPy call costs as much as about a hundred examples


def metric_key(name: str, model: str) -> tfma.metrics.MetricKey:
    # None, not False, because TFMA uses it to look up a threshold that is given by the name of a metric.
    return tfma.metrics.MetricKey(name, model_name=model, example_weighted=None)


def _is_of_all(extracts: Mapping[str, Any]) -> bool:
    """Returns whether an example goes to the set of all pictures, whose key is ()."""
    return any(not key for key in extracts[constants.SLICE_KEY_TYPES_KEY])


class _Reader(tfma.metrics.Preprocessor):
    """Reduces an example to the values that are counted, before TFMA passes it to each of its slices."""

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


class Whole(_Reader):
    """Yields int64 [1 + models + 2]: 1; whether each model reads the example without error; whether only the first does, only the last."""

    def __init__(self, models: list[str], shape: Shape):
        super().__init__(f"whole by {' and '.join(models)}", shape)
        self._models = models

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        right = [self._is_right(extracts, model) for model in self._models]
        yield np.array([1, *right, right[0] and not right[-1], right[-1] and not right[0]], np.int64)


class CountWhole(beam.CombineFn):
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
        values = {metric_key(EXAMPLE_COUNT, first): float(count)}
        for model, whole in zip(self._models, right, strict=True):
            rate = rate_values(SEQUENCE_ACCURACY, wilson_interval(whole, count, self._confidence))
            values |= {metric_key(name, model): value for name, value in rate.items()}
        if len(self._models) > 1:
            values |= {metric_key(ONLY_CANDIDATE, first): float(only_first), metric_key(ONLY_PRODUCTION, first): float(only_last)}
        return values


class GoldenReadings(_Reader):
    """Yields int64 [2] for an example of the golden span: its digest, and whether it is read without error."""

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


class GatherGoldenReadings(beam.CombineFn):
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


class Readings(_Reader):
    """Yields one row per example: label ids, ids read, confidence."""

    def __init__(self, model: str, shape: Shape):
        super().__init__(f"readings of {model}", shape)
        self._model = model

    def process(self, extracts: dict[str, Any]) -> Iterator[np.ndarray]:
        if _is_of_all(extracts):
            yield np.concatenate([np.atleast_1d(part) for part in self._read(extracts, self._model)])


class _Accumulator:
    """Buffers rows and counts them. `counts` is None if nothing has been counted, as in every slice."""

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


class CountReadings(beam.CombineFn):
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
