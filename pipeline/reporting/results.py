"""Collects the results of a finished run from its artifacts, for the terminal and for the report."""

import dataclasses
import heapq
import importlib.metadata
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.utils import path_utils

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.base.recipe import libraries
from components.data.example_proto import Example
from components.data.legacy_layout import IMAGE_RAW
from components.data.tfrecords import whole_records
from components.evaluation.advice import advise
from components.evaluation.gate import SetResult
from components.evaluator import Evaluation, load_results
from pipeline.config.config import Config
from pipeline.inference.served_model import BATCH_SIZE, ServedModel
from pipeline.reporting import content, report
from pipeline.runs.history import RunRecord
from pipeline.runs.outcomes import Verdict, drift, judgement, report_path, verdict

# Packages whose versions are reported in addition to those in a model's recipe.
_PACKAGES: Final = ("captcha-pipeline", "captcha")
_NUMBERS: Final = (features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS, features.WIDTH, features.HEIGHT)


@dataclasses.dataclass(frozen=True, eq=False)
class RunResult:
    """The result of a complete run.

    Attributes:
      name: name of the pipeline.
      run: its record.
      evaluation: results of the Evaluator.
      sets: results by test set that judged the model.
      drift: result of DriftGate.
      verdict: the verdict on the model.
      warnings: remarks that a reader of the figures should know.
      report: path of the report of this evaluation.
      changed: whether any step did work; false if every step was cached.
    """

    name: str
    run: RunRecord
    evaluation: Evaluation
    sets: Mapping[str, SetResult]
    drift: dict[str, Any]
    verdict: Verdict
    warnings: tuple[str, ...]
    report: Path
    changed: bool


def result_of(config: Config, run: RunRecord) -> RunResult:
    """Returns the result of a run.

    Raises:
      CaptchaPipelineError: the run did not reach the end of the Evaluator, or an earlier release made it.
    """
    evaluation_uri, where = run.artifact_uri("CaptchaEvaluator", "evaluation"), report_path(config, run)
    if evaluation_uri is None or where is None:
        raise CaptchaPipelineError(f"Run {run.run_id} did not finish. Complete it with `captcha-pipeline run`.")
    judged, found = judgement(run), drift(run)
    if judged is None or found is None:
        raise CaptchaPipelineError(
            f"An earlier release made run {run.run_id}, without a record of the judgement of its model. Start `captcha-pipeline run` again."
        )
    return RunResult(
        name=config.name,
        run=run,
        evaluation=load_results(evaluation_uri),
        sets=judged.sets,
        drift=found,
        verdict=verdict(config, run, judged),
        warnings=judged.warnings,
        report=where,
        changed=any(step.state != "cached" for step in run.steps),
    )


def write_report(config: Config, result: RunResult) -> content.ReportInputs:
    """Writes the report of a run to `result.report`.

    Uses the configuration on record for the run, because the current configuration may differ.

    Returns:
      The content of the report.

    Raises:
      CaptchaPipelineError: an output of the run is missing or broken.
    """
    run = result.run
    overall = result.evaluation.overall
    model = ServedModel(path_utils.serving_model_path(_uri(run, "Trainer", "model")))
    characters, blank = model.spec.characters, [""] if model.spec.blank_id is not None else []
    recorded = yaml.safe_load(run.configuration) if run.configuration else config.model_dump(mode="json")
    slices = [
        content.Slice(group, name, part.count, part.candidate)
        for group, by_name in result.evaluation.slices.items()
        for name, part in by_name.items()
    ]
    results = result.evaluation.results
    history = json.loads((Path(_uri(run, "Trainer", "model_run")) / features.HISTORY_FILE).read_text(encoding="utf-8"))
    misread = _misread(run, model)
    splits = [_statistics(Path(_uri(run, "StatisticsGen", "statistics")), split, characters) for split in features.SPLITS]
    # Where people have labelled pictures, drawn ones are only in the train split, and more labels are the advice.
    labelled = splits[0].count - (0 if splits[1].drawn else splits[0].drawn)
    floor, wrong = recorded["evaluator"]["min_sequence_accuracy"], [picture.confidence for picture in misread]
    inputs = content.ReportInputs(
        title=config.name,
        run_id=run.run_id,
        started=run.started,
        blessed=result.verdict.blessed,
        failures=result.verdict.failures,
        warnings=result.warnings,
        advice=[] if result.verdict.blessed else advise(results, [*characters, *blank], history, labelled, splits[0].drawn, floor, wrong),
        pushed_version=run.pushed_version,
        base_problem=run.base_problem,
        steps=[content.Step(step.node, step.state, step.seconds, step.engine) for step in run.steps],
        evaluation=content.Evaluation(
            results=results,
            classes=[*characters, *blank],
            slices=slices,
            production=overall.production,
            sets=result.sets,
            confidence=recorded["evaluator"]["confidence"],
        ),
        history=history,
        misread=misread,
        quarantine=_quarantine(Path(_uri(run, "CaptchaExampleGen", "quarantine"))),
        splits=splits,
        drift=_drift(result.drift),
        config=run.configuration or "# The configuration of this run is not on record: an earlier release made it.",
        versions={package: importlib.metadata.version(package) for package in _PACKAGES} | libraries(),
    )
    report.write_report(inputs, result.report)
    return inputs


def _drift(found: Mapping[str, Any]) -> content.Drift:
    return content.Drift(
        newest=found["newest"],
        distances={measure: (entry["value"], entry["threshold"]) for measure, entry in found["distances"].items()},
        histograms={measure: (sides["newest"], sides["others"]) for measure, sides in found["histograms"].items()},
    )


def _uri(run: RunRecord, node: str, key: str) -> str:
    uri = run.artifact_uri(node, key)
    if uri is None:
        raise CaptchaPipelineError(f"Run {run.run_id} has no output {key} of {node}. Complete it with `captcha-pipeline run`.")
    return uri


def _misread(run: RunRecord, model: ServedModel) -> list[content.Misread]:
    """Returns the pictures of the test split that the run's model misreads, at most MAX_MISREAD, highest confidence first."""
    examples = _examples(Path(_uri(run, "CaptchaExampleGen", "examples")) / "Split-test")
    # Read batch by batch, because the split may not fit into memory.
    wrong = (
        content.Misread(image, label, reading.text, reading.confidence)
        for batch in iter(lambda: [_image_and_label(example) for example in itertools.islice(examples, BATCH_SIZE)], [])
        for (image, label), reading in zip(batch, model.read(image for image, _ in batch), strict=True)
        if reading.text != label
    )
    return heapq.nlargest(report.MAX_MISREAD, wrong, key=lambda misread: misread.confidence)


def _image_and_label(example: Example) -> tuple[bytes, str]:
    feature = example.features.feature
    return feature[features.IMAGE].bytes_list.value[0], feature[features.LABEL].bytes_list.value[0].decode()


def _quarantine(folder: Path) -> content.Quarantine:
    summary = json.loads((folder / features.SUMMARY_FILE).read_text(encoding="utf-8"))
    shown = {(item["file"], item["index"]) for entry in summary["reasons"].values() for item in entry["examples"]}
    pictures: dict[tuple[str, int], bytes | None] = {}
    for example in _examples(folder) if shown else ():
        feature = example.features.feature
        key = (feature["source_file"].bytes_list.value[0].decode(), feature["index"].int64_list.value[0])
        if key in shown:
            pictures[key] = _picture_of(feature["record"].bytes_list.value[0])

    def reasons(entries: dict[str, Any]) -> list[content.QuarantineReason]:
        return [
            content.QuarantineReason(
                reason,
                entry["count"],
                [
                    content.QuarantineExample(item["file"], item["index"], item["detail"], pictures.get((item["file"], item["index"])))
                    for item in entry["examples"]
                ],
            )
            for reason, entry in entries.items()
        ]

    return content.Quarantine(
        total=summary["total"],
        bad=summary["bad"],
        reasons=reasons(summary["reasons"]),
        overlap=reasons(summary.get("overlap", {})),  # earlier releases do not write this key
    )


def _picture_of(record: bytes) -> bytes | None:
    """Returns the encoded picture of a refused record, which may be any bytes; None if it has no encoded picture."""
    try:
        feature = Example.FromString(record).features.feature
    except DecodeError:
        return None
    if features.IMAGE not in feature or IMAGE_RAW in feature:
        return None
    return next(iter(feature[features.IMAGE].bytes_list.value), None)


def _statistics(folder: Path, split: str, characters: str) -> content.SplitStatistics:
    statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString((folder / f"Split-{split}" / "FeatureStats.pb").read_bytes())
    dataset = statistics.datasets[0]
    by_name = {feature.path.step[0]: feature for feature in dataset.features}
    counts, sources = (
        {bucket.label: int(bucket.sample_count) for bucket in by_name[name].string_stats.rank_histogram.buckets}
        for name in (features.CHARACTERS, features.SOURCE)
    )
    numbers = {name: by_name[name].num_stats for name in _NUMBERS}
    return content.SplitStatistics(
        split=split,
        count=int(dataset.num_examples),
        drawn=sources.get(features.DRAWN, 0),
        characters={character: counts.get(character, 0) for character in characters},
        numbers={name: content.Summary(stats.mean, stats.std_dev, stats.min, stats.max) for name, stats in numbers.items()},
    )


def _examples(folder: Path) -> Iterator[Example]:
    return map(Example.FromString, whole_records(folder))
