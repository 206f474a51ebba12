"""The pipeline's graph: its steps and how they are connected. It does no I/O, so that every runner compiles the same graph."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow_data_validation as tfdv
from tfx.components import StatisticsGen, Tuner
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration import pipeline
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import trainer_pb2, transform_pb2

from components.data.spans import span_name
from components.drift_gate import DriftGate
from components.evaluation.tfma_metrics import eval_config
from components.evaluator import CaptchaEvaluator
from components.example_gen import CaptchaExampleGen
from components.latest_pushed_model import LatestPushedModel
from components.pusher import AtomicPusher
from components.schema_gate import CaptchaSchema, SchemaGate
from components.trainer import Trainer
from components.transform import Transform
from pipeline.config.config import Config
from pipeline.runs.inputs import RunInputs, model_settings


@dataclasses.dataclass(frozen=True)
class RunParameters:
    """Settings that can differ between runs of one compiled pipeline, named after the last part of their configuration key.

    Attributes:
      window: number of newest spans to train on; 0 for all spans.
      epochs: passes over the training split; 0 to choose the number by the size of the split.
      min_sequence_accuracy: lowest full-sequence accuracy that is blessed, 0 to 1.
      max_regression: how far the candidate model may be below the production model, 0 to 1.
    """

    window: int | RuntimeParameter
    epochs: int | RuntimeParameter
    min_sequence_accuracy: float | RuntimeParameter
    max_regression: float | RuntimeParameter

    @classmethod
    def of(cls, config: Config) -> "RunParameters":
        """Returns the parameters that the configuration sets."""
        evaluator = config.evaluator
        return cls(config.data.window or 0, config.trainer.epochs_parameter, evaluator.min_sequence_accuracy, evaluator.max_regression)


class _DataSteps(NamedTuple):
    """The steps that turn spans of records into training examples."""

    example_gen: CaptchaExampleGen
    schema: BaseComponent
    statistics: StatisticsGen
    gate: BaseComponent
    drift: BaseComponent
    transform: Transform


def create_pipeline(config: Config, inputs: RunInputs, parameters: RunParameters) -> pipeline.Pipeline:
    """Returns the whole pipeline, from spans of records to a pushed model. The runner adds the metadata connection.

    Args:
      config: of the pipeline.
      inputs: the state of data, serving folder and code, which decides whether TFX may reuse an output.
      parameters: values, or placeholders that are filled in when a compiled pipeline runs.
    """
    spec_json = config.captcha.model_dump_json()
    data = _data_steps(config, inputs, parameters)
    # The inputs of the recipe that are known before a run. On Kubeflow the content of the spans is known only in the run.
    made_from: dict[str, Any] = {"settings": model_settings(config), "epochs": parameters.epochs, "attempt": inputs.attempt}
    production = LatestPushedModel(
        examples=data.example_gen.outputs["examples"],
        serving_dir=config.serving_dir,
        spec=spec_json,
        **made_from,
        as_of=inputs.production,
        source_digest=inputs.digests["LatestPushedModel"],
    )
    trainer = Trainer(
        run_fn="components.training.run_fn.run_fn",
        **made_from,
        # Only an input for a warm start: otherwise a change in production would train the same model again.
        base_model=production.outputs["model"] if config.trainer.warm_start else None,
        **_to_fit_to(data.transform),
        custom_config={
            "spec": spec_json,
            "trainer": config.trainer.model_dump(),
            "max_pixels": config.data.max_pixels,
            "wrong_size": config.data.wrong_size,
            "background": config.data.background,
            "checkpoint_dir": config.checkpoint_dir,
            "log_dir": config.log_dir,
            "source_digest": inputs.digests["Trainer"],
        },
    )
    golden = config.data.golden or 0
    evaluator = CaptchaEvaluator(
        examples=data.example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=production.outputs["model"],
        eval_config=eval_config(
            config.captcha,
            confidence=config.evaluator.confidence,
            source_digest=inputs.digests["CaptchaEvaluator"],
            golden_span=span_name(golden) if golden else "",
        ),
        golden=golden,
        min_sequence_accuracy=parameters.min_sequence_accuracy,
        max_regression=parameters.max_regression,
        max_slice_regression=config.evaluator.max_slice_regression,
        confidence=config.evaluator.confidence,
        min_pictures=config.evaluator.min_pictures,
    )
    pusher = AtomicPusher(
        examples=data.example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        serving_dir=config.serving_dir,
        keep=config.pusher.keep,
    )
    return _pipeline(config, [*data, production, trainer, evaluator, pusher])


def create_tuning_pipeline(config: Config, inputs: RunInputs, trials: int, epochs: int) -> pipeline.Pipeline:
    """Returns a pipeline that searches for hyperparameters with `trials` fits of `epochs` epochs each.

    It reads the same data as `create_pipeline`. Hyperparameters that the configuration sets are not searched.
    """
    data = _data_steps(config, inputs, RunParameters.of(config))
    tuner = Tuner(
        tuner_fn="components.training.tuner_fn.tuner_fn",
        **_to_fit_to(data.transform),
        custom_config={
            "spec": config.captcha.model_dump_json(),
            "trainer": config.trainer.model_dump(),
            "fixed": sorted(config.trainer.model_fields_set),
            "trials": trials,
            "epochs": epochs,
            "search_dir": f"{config.search_dir}/{inputs.recipe}-{trials}x{epochs}",
            "source_digest": inputs.digests["Tuner"],
        },
    )
    return _pipeline(config, [*data, tuner])


def _data_steps(config: Config, inputs: RunInputs, parameters: RunParameters) -> _DataSteps:
    spec, digests = config.captcha, inputs.digests
    spec_json = spec.model_dump_json()
    example_gen = CaptchaExampleGen(
        data_root=config.data.root,
        window=parameters.window,
        exclude=config.data.exclude,
        golden=config.data.golden or 0,
        half_life=config.data.half_life or 0.0,
        spec=spec,
        rules=config.data.picture_rules,
        max_bad_fraction=config.data.max_bad_fraction,
        quarantine_dir=config.quarantine_dir,
        as_of=inputs.spans,
        source_digest=digests["CaptchaExampleGen"],
    )
    schema = CaptchaSchema(spec=spec_json, source_digest=digests["CaptchaSchema"])
    statistics = StatisticsGen(
        examples=example_gen.outputs["examples"],
        schema=schema.outputs["schema"],
        # Labels and parameters have about as many distinct values as there are pictures. Sketches keep memory flat. They are exact up to
        # 1,024 values of a feature.
        stats_options=tfdv.StatsOptions(use_sketch_based_topk_uniques=True),
    )
    gate = SchemaGate(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    drift = DriftGate(
        profiles=example_gen.outputs["profiles"],
        thresholds=json.dumps(config.drift.thresholds),
        action=config.drift.action,
        source_digest=digests["DriftGate"],
    )
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="components.training.preprocessing.preprocessing_fn",
        # The test split is not transformed: the Evaluator reads it through the served graph.
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        disable_statistics=True,
        custom_config={"spec": spec_json, "background": config.data.background, "source_digest": digests["Transform"]},
    )
    transform.add_upstream_nodes([gate, drift])
    return _DataSteps(example_gen, schema, statistics, gate, drift, transform)


def _to_fit_to(transform: Transform) -> dict[str, Any]:
    """Returns the data inputs of the Trainer and the Tuner."""
    return {
        "examples": transform.outputs["transformed_examples"],
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": trainer_pb2.TrainArgs(splits=["train"]),
        "eval_args": trainer_pb2.EvalArgs(splits=["eval"]),
    }


def _pipeline(config: Config, steps: Sequence[BaseComponent]) -> pipeline.Pipeline:
    for step in steps:
        if isinstance(step, BaseBeamComponent):
            step.with_beam_pipeline_args(config.beam.of(step.id).beam_args(f"{config.name}-{step.id}"))
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=config.pipeline_root,
        components=list(steps),
        enable_cache=True,
    )
