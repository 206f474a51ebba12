"""The graph: which step feeds which. It does no I/O, so that every runner compiles the same one."""

import dataclasses
from collections.abc import Mapping

import tensorflow_data_validation as tfdv
from tensorflow_model_analysis.proto import config_pb2
from tfx.components import StatisticsGen, Trainer
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration import pipeline
from tfx.proto import trainer_pb2, transform_pb2

from components.evaluator import CaptchaEvaluator
from components.example_gen import CaptchaExampleGen
from components.pushed_model import LatestPushedModel
from components.pusher import AtomicPusher
from components.schema import CaptchaSchema, SchemaGate
from components.tfma_metrics import eval_config
from components.transform_step import Transform
from pipeline.config import Config


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run's outcome depends on besides its configuration: without it TFX would reuse what is out of date.

    Attributes:
      spans: names the content of the window of spans.
      production: names the pushed version that a new model is compared with.
      digests: by module, a hash of the source of a step.
      fingerprint: names this combination of configuration, data and code; a model carries it.
    """

    spans: str
    production: str
    digests: Mapping[str, str]
    fingerprint: str


def create_pipeline(config: Config, around: Surroundings) -> pipeline.Pipeline:
    """Returns the whole pipeline, from spans of records to a pushed model. The runner adds where metadata is kept."""
    spec, digests = config.captcha, around.digests
    spec_json = spec.model_dump_json()

    example_gen = CaptchaExampleGen(
        data_root=config.data.root,
        window=config.data.window,
        spec=spec,
        rules=config.data.picture_rules,
        max_bad_fraction=config.data.max_bad_fraction,
        quarantine_dir=config.quarantine_dir,
        as_of=around.spans,
        source_digest=digests["components.example_gen"],
    )
    schema = CaptchaSchema(spec=spec_json, source_digest=digests["components.schema"])
    statistics = StatisticsGen(
        examples=example_gen.outputs["examples"],
        schema=schema.outputs["schema"],
        # Labels and parameters have about as many values as there are pictures: sketches keep memory flat. Up to 1,024 values
        # of a feature they count exactly.
        stats_options=tfdv.StatsOptions(use_sketch_based_topk_uniques=True),
    )
    gate = SchemaGate(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="components.transform.preprocessing_fn",
        # The test split stays as it came: the Evaluator reads it through the served graph.
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        disable_statistics=True,
        custom_config={"spec": spec_json, "background": config.data.background, "source_digest": digests["components.transform"]},
    )
    transform.add_upstream_node(gate)
    trainer = Trainer(
        run_fn="components.trainer.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
        custom_config={
            "spec": spec_json,
            "trainer": config.trainer.model_dump(),
            "max_pixels": config.data.max_pixels,
            "checkpoint_dir": config.checkpoint_dir,
            "fingerprint": around.fingerprint,
            "source_digest": digests["components.trainer"],
        },
    )
    production = LatestPushedModel(serving_dir=config.serving_dir, fingerprint=around.fingerprint, spec=spec_json, as_of=around.production)
    evaluator = CaptchaEvaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=production.outputs["model"],
        eval_config=_eval_config(config, digests["components.tfma_metrics"]),
    )
    pusher = AtomicPusher(model=trainer.outputs["model"], model_blessing=evaluator.outputs["blessing"], serving_dir=config.serving_dir)
    steps: list[BaseComponent] = [example_gen, schema, statistics, gate, transform, trainer, production, evaluator, pusher]
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=config.pipeline_root,
        components=steps,
        enable_cache=True,
        beam_pipeline_args=config.beam_args,
    )


def _eval_config(config: Config, source_digest: str) -> config_pb2.EvalConfig:
    return eval_config(
        config.captcha,
        min_sequence_accuracy=config.evaluator.min_sequence_accuracy,
        max_regression=config.evaluator.max_regression,
        confidence=config.evaluator.confidence,
        source_digest=source_digest,
    )
