"""A small graph with the step names of the pipeline, to put runs on record: real ML Metadata, real TFX, tiny files."""

import json
from pathlib import Path

import pytest
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.types import standard_artifacts
from tfx.types.experimental.simple_artifacts import Metrics

from pipeline.config.config import Config
from pipeline.runs import history
from pipeline.runs.outcomes import report_path
from tests.support.recorded_run import last_run, put_on_record

RATE = {"value": 0.9, "lower": 0.8, "upper": 0.95}


@component
def CaptchaExampleGen(
    window: Parameter[str], examples: OutputArtifact[standard_artifacts.Examples], quarantine: OutputArtifact[Metrics]
) -> None:
    if window == "broken":
        raise ValueError("stopped")
    Path(examples.uri, "Split-train").mkdir(parents=True)
    Path(examples.uri, "Split-train", "records").write_text(window * 1000)
    Path(quarantine.uri, "summary.json").write_text(json.dumps({"good": {"train": 100}}))
    Path(quarantine.uri, "records").write_text("bad")


@component
def DriftGate(window: Parameter[str], anomalies: OutputArtifact[standard_artifacts.ExampleAnomalies]) -> None:
    Path(anomalies.uri, "drift.json").write_text('{"distances": {}}')
    Path(anomalies.uri, "pictures").write_text(window * 1000)


@component
def Trainer(
    examples: InputArtifact[standard_artifacts.Examples],
    fingerprint: Parameter[str],
    folder: Parameter[str],
    stops: Parameter[int],
    model: OutputArtifact[standard_artifacts.Model],
) -> None:
    for left in (Path(folder, "checkpoints", fingerprint, "epoch-000001"), Path(folder, "logs", fingerprint), Path(model.uri)):
        left.mkdir(parents=True, exist_ok=True)
        (left / "file").write_text(fingerprint * 100_000)
    if stops:
        raise ValueError("stopped")


@component
def CaptchaEvaluator(
    model: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
) -> None:
    sets = {"all": {"candidate": RATE, "production": None, "p_value": None, "count": 100}}
    Path(evaluation.uri, "judgement.json").write_text(json.dumps({"failures": [], "sets": sets}))
    Path(evaluation.uri, "metrics").write_text("0.9" * 1000)
    blessing.set_int_custom_property("blessed", 1)


@component
def AtomicPusher(
    model: InputArtifact[standard_artifacts.Model],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    version: Parameter[str],
    folder: Parameter[str],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
) -> None:
    Path(folder, version).mkdir(parents=True)
    Path(folder, version, "saved_model.pb").write_text("a model")
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", version)


@component
def Tuner(
    examples: InputArtifact[standard_artifacts.Examples],
    custom_config: Parameter[str],
    stops: Parameter[int],
    best_hyperparameters: OutputArtifact[standard_artifacts.HyperParameters],
) -> None:
    Path(json.loads(custom_config)["search_dir"], "search").mkdir(parents=True, exist_ok=True)
    if stops:
        raise ValueError("stopped")


def execute(config: Config, *steps: BaseComponent) -> history.RunRecord:
    put_on_record(config.metadata_path, config.name, config.pipeline_root, steps)
    return last_run(config)


def run(config: Config, name: str, *, window: str = "1", version: str = "", stops: bool = False) -> history.RunRecord:
    """Runs the graph with `name` as fingerprint and, by default, as pushed version; writes a report."""
    example_gen = CaptchaExampleGen(window=window)
    trainer = Trainer(
        examples=example_gen.outputs["examples"], fingerprint=name, folder=str(Path(config.metadata_path).parent), stops=int(stops)
    )
    evaluator = CaptchaEvaluator(model=trainer.outputs["model"])
    pusher = AtomicPusher(
        model=trainer.outputs["model"], blessing=evaluator.outputs["blessing"], version=version or name, folder=config.serving_dir
    )
    last = execute(config, example_gen, DriftGate(window=window), trainer, evaluator, pusher)
    report = report_path(config, last)
    assert report is not None
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("a report")
    return last


def stopped(config: Config, name: str) -> None:
    with pytest.raises(ValueError, match="stopped"):
        run(config, name, stops=True)


def stopped_early(config: Config) -> None:
    with pytest.raises(ValueError, match="stopped"):
        run(config, "4", window="broken")


def search(config: Config, name: str, *, stops: bool = False) -> None:
    example_gen = CaptchaExampleGen(window="1")
    custom_config = json.dumps({"search_dir": f"{config.search_dir}/{name}"})
    execute(config, example_gen, Tuner(examples=example_gen.outputs["examples"], custom_config=custom_config, stops=int(stops)))
