"""TFX's Evaluator that also works without a production model, and blesses by the rules of components/evaluation/gate.py."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.proto.config_pb2 import EvalConfig
from tfx import types
from tfx.components.evaluator import component, constants, executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import io_utils, path_utils

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.base.features import GOLDEN_FILE, JUDGEMENT_FILE
from components.data.spans import span_name
from components.evaluation import golden, tfma_metrics, tfma_values
from components.evaluation.gate import ALL, BEST, GOLDEN, NEWEST, BestSoFar, Comparison, Gate, judge
from components.evaluation.golden import Best, GoldenReading
from components.evaluation.metrics import Results
from components.serving.serving_dir import recipe_of

SPLIT: Final = "test"  # used neither for training nor for early stopping


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The metrics of a model, and its comparison with the production model, if there is one.

    Attributes:
      results: the metrics on the whole test split.
      overall: the comparison on the whole test split.
      slices: `slices[feature][value]` is the comparison on the examples where `feature` (characters, source, difficulty or span) has that
        value. An example is in the slice of every character of its text.
      golden: how the model reads the golden set; None if no golden set is configured or it has no example.
    """

    results: Results
    overall: Comparison
    slices: dict[str, dict[str, Comparison]]
    golden: GoldenReading | None

    def sets(self, newest: str, golden_span: str) -> dict[str, Comparison]:
        """Returns the sets of pictures used to judge a model: all pictures, and the newest span and the golden set if they differ from all.

        Args:
          newest: the name of the newest span.
          golden_span: the name of the golden span; "" for no golden span.
        """
        spans = self.slices[features.SPAN]
        parts = {NEWEST: spans.get(newest), GOLDEN: spans.get(golden_span)} if len(spans) > 1 else {}
        return {ALL: self.overall} | {name: part for name, part in parts.items() if part}


class CaptchaEvaluatorExecutor(executor.Executor):
    """TFX's executor for a baseline artifact that may have no model. A model that is not blessed is a result, not an error."""

    def Do(
        self, input_dict: dict[str, list[types.Artifact]], output_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]
    ) -> None:
        """Evaluates the model, and the baseline if there is one, and writes the metrics, the judgement and the blessing."""
        model = artifact_utils.get_single_instance(input_dict[specs.MODEL_KEY])
        production = artifact_utils.get_single_instance(input_dict[specs.BASELINE_MODEL_KEY])
        has_baseline = _about(production).get("spec") == _about(model)["spec"]
        if not has_baseline:
            input_dict = {key: artifacts for key, artifacts in input_dict.items() if key != specs.BASELINE_MODEL_KEY}
        hooks = {"custom_eval_shared_model": eval_shared_model, "custom_extractors": tfma_metrics.extractors}
        names = {key: f"{function.__module__}.{function.__name__}" for key, function in hooks.items()}
        super().Do(input_dict, output_dict, exec_properties | names)

        evaluation_uri = artifact_utils.get_single_uri(output_dict[specs.EVALUATION_KEY])
        examples = artifact_utils.get_single_instance(input_dict[specs.EXAMPLES_KEY])
        try:
            evaluation = load_results(evaluation_uri)
        except ValueError:
            failure = f"the model cannot be judged: the {SPLIT} split has no examples"
            judgement = {"failures": [failure], "warnings": [], "sets": {}}
        else:
            best = _best(evaluation.golden, production)
            if best and has_baseline and best.recipe == recipe_of(_about(production)):
                best = None  # the best model is the baseline, and the two models are compared anyway
            judgement = _judgement(evaluation, best, span_name(examples.span), exec_properties)
            if evaluation.golden:
                blessing_uri = artifact_utils.get_single_uri(output_dict[specs.BLESSING_KEY])
                io_utils.write_string_file(os.path.join(blessing_uri, GOLDEN_FILE), evaluation.golden.model_dump_json())
        with fileio.open(os.path.join(evaluation_uri, JUDGEMENT_FILE), "w") as file:
            file.write(json.dumps(judgement, indent=1))
        _bless(artifact_utils.get_single_instance(output_dict[specs.BLESSING_KEY]), model, blessed=not judgement["failures"])
        logging.info("%s", "Not blessed: " + "; ".join(judgement["failures"]) if judgement["failures"] else "Blessed.")


def _about(model: types.Artifact) -> dict[str, Any]:
    """Returns the content of a model's SPEC_FILE; {} if the artifact has no model, for example because nothing is in production."""
    path = os.path.join(path_utils.serving_model_path(model.uri), "assets.extra", features.SPEC_FILE)
    if not fileio.exists(path):
        return {}
    with fileio.open(path) as file:
        about: dict[str, Any] = json.loads(file.read())
    return about


def _best(mine: GoldenReading | None, production: types.Artifact) -> Best | None:
    """Returns the best reading of the golden set by a pushed model, which LatestPushedModel stores next to the production model.

    Returns None if no pushed model has read this golden set.
    """
    path = os.path.join(production.uri, GOLDEN_FILE)
    if mine is None or not fileio.exists(path):
        return None
    with fileio.open(path) as file:
        return next((best for best in golden.from_json(file.read()) if best.content == mine.content), None)


def _judgement(evaluation: Evaluation, best: Best | None, newest: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"failures": [sentence], "warnings": [sentence], "sets": {name: SetResult}}`, in JSON types."""
    gate = Gate.from_values({name: properties[name] for name in Gate.model_fields})
    sets = evaluation.sets(newest, span_name(properties["golden"]) if properties["golden"] else "")
    slices = {f"slice {value} of {kind}": part for kind, by_value in evaluation.slices.items() for value, part in by_value.items()}
    so_far: BestSoFar | None = golden.compare(evaluation.golden, best, gate.confidence) if evaluation.golden and best else None
    verdict = judge(sets, slices, gate, so_far)
    shown = sets | ({BEST: so_far.comparison} if so_far else {})
    return dataclasses.asdict(verdict) | {"sets": {name: dataclasses.asdict(part.summary) for name, part in shown.items()}}


def _bless(blessing: types.Artifact, model: types.Artifact, *, blessed: bool) -> None:
    """Marks the artifact in the same way as TFX's Evaluator."""
    name = constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME
    value = constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    io_utils.write_string_file(os.path.join(blessing.uri, name), "")
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)


class CaptchaEvaluator(component.Evaluator):
    """Evaluates `model` on the test split and blesses it if `components.evaluation.gate.judge` finds no failure.

    `baseline_model` may be an artifact without a model, or with a model of another CaptchaSpec: then there is no baseline. The
    thresholds are separate properties, not a part of `eval_config`, so that each run of a compiled pipeline can set them.

    Args:
      golden: the number of the span whose test split is the golden set; 0 for no golden set.
      min_sequence_accuracy, max_regression, max_slice_regression, confidence, min_pictures: see `components.evaluation.gate.Gate`.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(CaptchaEvaluatorExecutor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        eval_config: EvalConfig,
        golden: int,
        min_sequence_accuracy: float | RuntimeParameter,
        max_regression: float | RuntimeParameter,
        max_slice_regression: float,
        confidence: float,
        min_pictures: int,
    ):
        super().__init__(examples=examples, model=model, baseline_model=baseline_model, eval_config=eval_config, example_splits=[SPLIT])
        # Added here because TFX's constructor does not accept them. TFX's udf_utils sets properties in the same way.
        self.spec.exec_properties.update(
            golden=golden,
            min_sequence_accuracy=min_sequence_accuracy,
            max_regression=max_regression,
            max_slice_regression=max_slice_regression,
            confidence=confidence,
            min_pictures=min_pictures,
        )


class _ByKeyword:
    """A signature of a SavedModel that is called by position and calls TensorFlow by keyword.

    TensorFlow also accepts a call by position. But it tries keywords first, and writes the whole batch into the text of an error that
    nobody reads. That takes a tenth of the Evaluator's time.
    """

    def __init__(self, signature: Any):
        self._signature = signature
        self.structured_input_signature = signature.structured_input_signature
        (self._input,) = self.structured_input_signature[1]

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._signature(**{self._input: examples})


@dataclasses.dataclass(frozen=True)
class _ByKeywordModel:
    """The attributes that TFMA needs of a model. The model itself is kept because it owns the variables."""

    model: Any
    signatures: Mapping[str, _ByKeyword]


def eval_shared_model(**arguments: Any) -> tfma.EvalSharedModel:
    """Returns TFMA's `default_eval_shared_model` for a model whose signatures all take one input."""
    shared = tfma.default_eval_shared_model(**arguments)
    load = shared.model_loader.construct_fn

    def load_by_keyword() -> _ByKeywordModel:
        model = load()
        return _ByKeywordModel(model, {name: _ByKeyword(signature) for name, signature in model.signatures.items()})

    return shared._replace(model_loader=tfma.ModelLoader(load_by_keyword))


def load_results(evaluation_uri: str) -> Evaluation:
    """Reads the metrics of a finished evaluation.

    Raises:
      ValueError: there are no metrics, for example because the evaluation had no examples.
      CaptchaPipelineError: another release of this project wrote the metrics.
    """
    try:
        return _load_results(evaluation_uri)
    except KeyError as error:
        raise CaptchaPipelineError(
            f"{evaluation_uri} has metrics of another release of this project: {error} is missing. Run `captcha-pipeline run` to "
            "evaluate again."
        ) from None


def _load_results(evaluation_uri: str) -> Evaluation:
    results: Results | None = None
    overall: Comparison | None = None
    reading: GoldenReading | None = None
    slices: dict[str, dict[str, Comparison]] = {key: {} for key in tfma_metrics.SLICES}
    for item in tfma.load_metrics(evaluation_uri):
        by_model: dict[bool, dict[str, Any]] = {False: {}, True: {}}
        for pair in item.metric_keys_and_values:
            if not pair.key.is_diff:
                by_model[pair.key.model_name == tfma.BASELINE_KEY][pair.key.name] = _value(pair.value)
        candidate, baseline = by_model[False], by_model[True]
        if not candidate:
            continue
        comparison = Comparison(
            int(candidate[tfma_values.EXAMPLE_COUNT]),
            tfma_values.rate_from(candidate, tfma_values.SEQUENCE_ACCURACY),
            tfma_values.rate_from(baseline, tfma_values.SEQUENCE_ACCURACY) if baseline else None,
            *(int(candidate.get(name, 0)) for name in (tfma_values.ONLY_CANDIDATE, tfma_values.ONLY_PRODUCTION)),
        )
        if not item.slice_key.single_slice_keys:
            overall, results = comparison, tfma_values.from_metrics(candidate)
            if (pictures := candidate.get(tfma_values.GOLDEN_READINGS)) is not None:
                reading = golden.reading(pictures[:, 0].tolist(), pictures[:, 1].astype(bool).tolist())
        else:
            (key,) = item.slice_key.single_slice_keys
            slices[key.column][key.bytes_value.decode()] = comparison
    if overall is None or results is None:
        raise ValueError(f"{evaluation_uri} has no metrics.")
    return Evaluation(results, overall, {key: dict(sorted(by_value.items())) for key, by_value in slices.items()}, reading)


def _value(value: Any) -> Any:
    """Returns a metric's value as a float or a NumPy array."""
    if value.WhichOneof("type") == "array_value":
        array = value.array_value
        field = {array.INT64: array.int64_values, array.FLOAT64: array.float64_values}[array.data_type]
        return np.array(field).reshape(array.shape)
    return value.double_value.value
