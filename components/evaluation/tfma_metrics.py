"""The figures of `metrics.py` as a TFMA metric, and the EvalConfig that requests them.

A slice has only the figures used to judge it: the number of its pictures, and how many of them each model reads without error. All other
figures are of all pictures together only, because a charset of thousands makes thousands of slices, each of which would have a confusion
matrix of millions of cells. TFMA passes an example to all of its slices at once. `extractors` makes TFMA pass each example twice: to the
set of all pictures, and to its slices.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import apache_beam as beam
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.extractors.extractor import Extractor
from tensorflow_model_analysis.proto import config_pb2

from components.base import features
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.metrics import ReadingCounts
from components.evaluation.tfma_counting import (
    CountReadings,
    CountWhole,
    GatherGoldenReadings,
    GoldenReadings,
    Keys,
    Readings,
    Whole,
    metric_key,
)
from components.evaluation.tfma_values import GOLDEN_READINGS, to_metrics

SLICES: Final = (features.CHARACTERS, features.SOURCE, features.DIFFICULTY, features.SPAN)


def eval_config(spec: CaptchaSpec, *, confidence: float, source_digest: str, golden_span: str = "") -> config_pb2.EvalConfig:
    """Returns the metrics that TFMA computes. components/evaluation/gate.py judges their values.

    The metrics are computed over all examples and over the SLICES: the examples whose text contains a given character, those from a given
    source, of a given difficulty, of a given span. The Evaluator adds the second model if there is a baseline.

    Args:
      spec: what the model reads.
      confidence: of the intervals, such as 0.95.
      source_digest: of the code behind the figures. TFX compares configurations to decide whether a result can be reused.
      golden_span: the name of the span whose pictures are recorded one by one; "" for no span.
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
    """Returns TFMA's extractors. The last one is changed to pass each example twice: to the set of all pictures, and to its slices."""
    *others, slicing = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    # TFMA's evaluator uses the output of the stage with this name, not the output of the last stage.
    return [*others, Extractor(slicing.stage_name, slicing.ptransform | "AllApart" >> beam.ParDo(_AllApart()))]


class _AllApart(beam.DoFn):
    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        keys = list(extracts[constants.SLICE_KEY_TYPES_KEY])
        for part in ([key for key in keys if not key], [key for key in keys if key]):
            yield extracts | {constants.SLICE_KEY_TYPES_KEY: part}


class CaptchaMetrics(tfma.metrics.Metric):
    """All figures of `metrics.Results`, and the comparison of two models.

    TFMA creates it from the configuration that `eval_config` returns. Labels are class ids [num_positions]; predictions are a
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
    del source_digest, name  # TFX compares the first, TFMA uses the second
    shape = (num_positions, num_classes, min_length)
    has_baseline = model_names and tfma.BASELINE_KEY in model_names
    models = [tfma.CANDIDATE_KEY, tfma.BASELINE_KEY] if has_baseline else [model_names[0] if model_names else ""]
    whole = CountWhole(models, confidence)
    details = to_metrics(ReadingCounts(*shape).results(confidence)).keys() - {key.name for key in whole.keys}
    computations = [
        tfma.metrics.MetricComputation(whole.keys, [Whole(models, shape)], whole),
        _of_all(models[0], sorted(details), Readings(models[0], shape), lambda keys: CountReadings(keys, shape, confidence)),
    ]
    if golden_span:
        preprocessor = GoldenReadings(models[0], shape, golden_span)
        computations.append(_of_all(models[0], [GOLDEN_READINGS], preprocessor, GatherGoldenReadings))
    return computations


def _of_all(
    model: str, names: list[str], preprocessor: tfma.metrics.Preprocessor, combiner: Callable[[Keys], beam.CombineFn]
) -> tfma.metrics.MetricComputation:
    """Returns a computation of one model over all pictures. It has no results in the slices."""
    keys = {name: metric_key(name, model) for name in names}
    return tfma.metrics.MetricComputation(list(keys.values()), [preprocessor], combiner(keys))
