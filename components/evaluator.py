"""The Evaluator that takes "no model in production" for "no baseline", and what its verdict and figures say."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.proto.config_pb2 import EvalConfig
from tfx import types
from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import path_utils, proto_utils

from components import tfma_metrics
from components.metrics import Results

_THRESHOLDS: Final = ("min_sequence_accuracy", "max_regression")
SPLIT: Final = "test"  # neither trained on nor used to stop training


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model is blessed; if not, one sentence a failure."""

    blessed: bool
    failures: list[str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of a model, over the whole test split and by slice.

    `slices[feature][value]` are the results over the examples where `feature` (characters, source or difficulty) has that
    value. An example is in the slice of every character that its text holds. `baseline` is the model in production over the
    whole split; None where there was none.
    """

    overall: Results
    baseline: Results | None
    slices: dict[str, dict[str, Results]]


class CaptchaEvaluatorExecutor(executor.Executor):
    """TFX's executor, for a baseline that may hold no model. A model that is not blessed is a result, not an error."""

    def Do(
        self, input_dict: dict[str, list[types.Artifact]], output_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]
    ) -> None:
        """Evaluates the model, and the baseline where there is one, and writes the figures and the blessing."""
        input_dict = dict(input_dict)
        baseline = input_dict.pop(specs.BASELINE_MODEL_KEY, [])
        if baseline and fileio.exists(os.path.join(path_utils.serving_model_path(baseline[0].uri), "saved_model.pb")):
            input_dict[specs.BASELINE_MODEL_KEY] = baseline
        config = EvalConfig()
        proto_utils.json_to_proto(exec_properties[specs.EVAL_CONFIG_KEY], config)
        tfma_metrics.set_thresholds(config, **{name: exec_properties[name] for name in _THRESHOLDS})
        loader = f"{eval_shared_model.__module__}.{eval_shared_model.__name__}"
        changes = {specs.EVAL_CONFIG_KEY: proto_utils.proto_to_json(config), "custom_eval_shared_model": loader}
        super().Do(input_dict, output_dict, exec_properties | changes)
        result = verdict(artifact_utils.get_single_uri(output_dict[specs.EVALUATION_KEY]))
        logging.info("%s", "Blessed." if result.blessed else "Not blessed: " + "; ".join(result.failures))


class CaptchaEvaluator(component.Evaluator):
    """Evaluates `model` on the test split and blesses it if it meets the two thresholds.

    `baseline_model` may be an artifact without a model in it, as `LatestPushedModel` leaves where nothing is in production. The thresholds
    are properties of their own, not a part of `eval_config`, so that a run of a compiled pipeline can have its own.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(CaptchaEvaluatorExecutor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        eval_config: EvalConfig,
        min_sequence_accuracy: float | RuntimeParameter,
        max_regression: float | RuntimeParameter,
    ):
        super().__init__(examples=examples, model=model, baseline_model=baseline_model, eval_config=eval_config, example_splits=[SPLIT])
        # As TFX itself adds what a constructor of its own does not know.
        self.spec.exec_properties.update(min_sequence_accuracy=min_sequence_accuracy, max_regression=max_regression)


class _ByKeyword:
    """A signature of a SavedModel, called by position.

    TensorFlow takes that as well, but tries it by keyword first and writes all of the batch into the text of an error that nobody
    reads: a tenth of the Evaluator's time.
    """

    def __init__(self, signature: Any):
        self._signature = signature
        self.structured_input_signature = signature.structured_input_signature
        (self._input,) = self.structured_input_signature[1]

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._signature(**{self._input: examples})


@dataclasses.dataclass(frozen=True)
class _ByKeywordModel:
    """What TFMA looks for in a model; the model itself goes along, for it holds the variables."""

    model: Any
    signatures: Mapping[str, _ByKeyword]


def eval_shared_model(**arguments: Any) -> tfma.EvalSharedModel:
    """TFMA's `default_eval_shared_model`, for a model all of whose signatures take one input."""
    shared = tfma.default_eval_shared_model(**arguments)
    load = shared.model_loader.construct_fn

    def load_by_keyword() -> _ByKeywordModel:
        model = load()
        return _ByKeywordModel(model, {name: _ByKeyword(signature) for name, signature in model.signatures.items()})

    return shared._replace(model_loader=tfma.ModelLoader(load_by_keyword))


def verdict(evaluation_uri: str) -> Verdict:
    """Reads from a finished evaluation whether the model is blessed, and which threshold failed by how much."""
    validation = tfma.load_validation_result(evaluation_uri)
    failures = [
        _explain(failure, evaluation_uri) for slice_result in validation.metric_validations_per_slice for failure in slice_result.failures
    ]
    if not validation.validation_ok and not failures:
        failures = [f"there is nothing to judge the model by: the {SPLIT} split has no examples"]
    return Verdict(validation.validation_ok, failures)


def load_results(evaluation_uri: str) -> Evaluation:
    """Reads the figures of a finished evaluation.

    Raises:
      ValueError: there are none, as after an evaluation of no examples.
    """
    overall: dict[bool, Results] = {}
    slices: dict[str, dict[str, Results]] = {key: {} for key in tfma_metrics.SLICES}
    for item in tfma.load_metrics(evaluation_uri):
        for is_baseline in (False, True):
            values = {
                pair.key.name: _value(pair.value)
                for pair in item.metric_keys_and_values
                if not pair.key.is_diff and (pair.key.model_name == tfma.BASELINE_KEY) == is_baseline
            }
            if not values:
                continue
            results = tfma_metrics.from_metrics(values)
            if not item.slice_key.single_slice_keys:
                overall[is_baseline] = results
            elif not is_baseline:
                (key,) = item.slice_key.single_slice_keys
                slices[key.column][key.bytes_value.decode()] = results
    if False not in overall:
        raise ValueError(f"{evaluation_uri} holds no figures")
    return Evaluation(overall[False], overall.get(True), {key: dict(sorted(by_value.items())) for key, by_value in slices.items()})


def _value(value: Any) -> Any:
    """Returns a metric's value as a float or a NumPy array."""
    if value.WhichOneof("type") == "array_value":
        array = value.array_value
        field = {array.INT64: array.int64_values, array.FLOAT64: array.float64_values}[array.data_type]
        return np.array(field).reshape(array.shape)
    return value.double_value.value


def _explain(failure: Any, evaluation_uri: str) -> str:
    name, value, threshold = failure.metric_key.name, failure.metric_value.double_value.value, failure.metric_threshold
    if threshold.HasField("value_threshold"):
        floor = threshold.value_threshold.lower_bound.value
        return f"{name} {value:.4f} is under the floor {floor:g} by {floor - value:.4f}"
    # What failed is the difference to the baseline.
    accuracy = load_results(evaluation_uri).overall.sequence_accuracy.value
    allowed = -threshold.change_threshold.absolute.value
    return (
        f"{name} {accuracy:.4f} is below that of the model in production, {accuracy - value:.4f}, by {-value:.4f}; allowed are {allowed:g}"
    )
