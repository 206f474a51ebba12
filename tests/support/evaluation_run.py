"""Runs the Evaluator's executor as TFX does, with Beam in this process or on another engine."""

import json
from pathlib import Path

from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.data.captcha_spec import CaptchaSpec
from components.data.spans import span_name
from components.evaluation import tfma_metrics
from components.evaluator import CaptchaEvaluatorExecutor
from pipeline.config.engines import Engine


def evaluate(
    store: Path,
    out: Path,
    spec: CaptchaSpec,
    model: str,
    baseline: str,
    floor: float,
    regression: float = 0.005,
    slice_regression: float = 1.0,
    golden: int = 0,
    min_pictures: int = 1,
    examples="examples",
    engine: Engine = Engine(),
):
    """Evaluates the model `store/model` against `store/baseline`; returns the evaluation's folder and the blessing artifact."""
    data = standard_artifacts.Examples()
    data.uri = str(store / examples)
    data.span = 2
    data.split_names = json.dumps(["train", "eval", "test"])
    inputs = {"examples": [data]}
    for key, name in {"model": model, "baseline_model": baseline}.items():
        artifact = standard_artifacts.Model()
        artifact.uri = str(store / name)
        inputs[key] = [artifact]
    evaluation, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
    evaluation.uri, blessing.uri = str(out / "evaluation"), str(out / "blessing")
    config = tfma_metrics.eval_config(spec, confidence=0.95, source_digest="0", golden_span=span_name(golden) if golden else "")
    context = CaptchaEvaluatorExecutor.Context(beam_pipeline_args=engine.beam_args(), tmp_dir=str(out / "tmp"), unique_id="1")
    CaptchaEvaluatorExecutor(context).Do(
        inputs,
        {"evaluation": [evaluation], "blessing": [blessing]},
        {
            "eval_config": proto_utils.proto_to_json(config),
            "example_splits": json.dumps(["test"]),
            "min_sequence_accuracy": floor,
            "max_regression": regression,
            "max_slice_regression": slice_regression,
            "confidence": 0.95,
            "golden": golden,
            "min_pictures": min_pictures,
        },
    )
    return evaluation.uri, blessing
