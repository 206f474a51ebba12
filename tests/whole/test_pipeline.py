"""The whole pipeline on tiny data: real records, real Beam, real TFX."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import HISTORY_FILE, IMAGE, LABEL, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS, SPEC_FILE
from components.data.example_proto import Example
from components.data.spans import list_spans
from components.data.tfrecords import read_records
from components.serving import serving_dir
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.inference.served_model import ServedModel
from pipeline.reporting import results, strength_page
from pipeline.runs import drawn_styles, history, strength
from pipeline.runs.outcomes import retrainings
from pipeline.runs.policy import reason_to_retrain
from tests.support.command import call
from tests.support.paths import tiny_options
from tests.support.recorded_run import last_run

pytestmark = pytest.mark.slow

MODEL_STEPS = {"Trainer", "LatestPushedModel", "CaptchaEvaluator", "AtomicPusher"}
OF_NO_STEP = ("--set", "retraining.max_age=1000")  # a setting on which no step depends


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("tiny")
    return tiny_options(root)


@pytest.fixture(scope="module")
def config(options: list[str]) -> Config:
    return load_config(options[1], options[3::2])


@pytest.fixture(scope="module")
def first_run(options: list[str], config: Config) -> history.RunRecord:
    call("data", "synth", *options)
    output = call("run", *options)
    assert "Blessed" in output
    return last_run(config)


def served(config: Config) -> ServedModel:
    return ServedModel(serving_dir.versions(config.serving_dir)[0].path)


def examples(folder: str) -> list[Example]:
    return [Example.FromString(item.data) for path in sorted(Path(folder).glob("*-of-*")) for item in read_records(str(path))]


def value(example: Example, name: str) -> bytes:
    content: bytes = example.features.feature[name].bytes_list.value[0]
    return content


def test_every_step_is_done_and_one_version_is_pushed(first_run: history.RunRecord, config: Config) -> None:
    assert [step.state for step in first_run.steps] == ["done"] * len(first_run.steps)
    assert [str(pushed.version) for pushed in serving_dir.versions(config.serving_dir)] == [first_run.pushed_version]
    assert first_run.blessed


def test_transform_keeps_the_pixels_and_encodes_the_labels(first_run: history.RunRecord, config: Config) -> None:
    spec = config.captcha
    uri = first_run.artifact_uri("CaptchaExampleGen", "examples")
    raw = {value(example, LABEL).decode(): example for example in examples(f"{uri}/Split-train")}
    transformed = examples(f"{first_run.artifact_uri('Transform', 'transformed_examples')}/Split-train")
    pixels = np.stack([np.frombuffer(value(example, PIXELS), np.uint8) for example in transformed])
    assert pixels.shape[1] == spec.height * spec.width * spec.channels
    labels = {spec.decode(list(example.features.feature[LABEL_IDS].int64_list.value)) for example in transformed}
    assert labels == set(raw)
    statistics = {name: transformed[0].features.feature[name].float_list.value[0] for name in (PIXEL_MEAN, PIXEL_STD)}
    assert statistics[PIXEL_MEAN] == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-4)
    assert statistics[PIXEL_STD] == pytest.approx(pixels.std(dtype=np.float64), rel=1e-4)


def test_transform_stores_its_records_uncompressed(first_run: history.RunRecord) -> None:
    files = list(Path(f"{first_run.artifact_uri('Transform', 'transformed_examples')}/Split-train").iterdir())
    assert sum(file.stat().st_size for file in files) > sum(len(gzip.decompress(file.read_bytes())) for file in files)


def test_the_figures_of_the_evaluator_match_numpy(first_run: history.RunRecord, config: Config) -> None:
    spec = config.captcha
    test = examples(f"{first_run.artifact_uri('CaptchaExampleGen', 'examples')}/Split-test")
    truth = np.array([spec.encode(value(example, LABEL).decode()) for example in test])
    readings = list(served(config).read([value(example, IMAGE) for example in test]))
    read = np.stack([reading.probabilities for reading in readings]).argmax(axis=-1)
    figures = results.result_of(config, first_run).evaluation.results
    assert figures.example_count == len(test)
    assert figures.sequence_accuracy.value == pytest.approx((read == truth).all(axis=1).mean())
    assert [rate.value for rate in figures.position_accuracy] == pytest.approx((read == truth).mean(axis=0).tolist())
    confusion = np.zeros((spec.num_classes, spec.num_classes), int)
    np.add.at(confusion, (truth.ravel(), read.ravel()), 1)
    assert figures.confusion_matrix.toarray().tolist() == confusion.tolist()
    assert [reading.text for reading in readings] == [spec.decode(list(ids)) for ids in read]


@pytest.mark.long
def test_cross_validation_uses_all_pictures_except_the_test_split(first_run: history.RunRecord, options: list[str]) -> None:
    output = call("cross-validate", *options, "--folds", "2", "--set", "trainer.epochs=1")
    transformed = first_run.artifact_uri("Transform", "transformed_examples")
    count = sum(len(examples(f"{transformed}/Split-{split}")) for split in ("train", "eval"))
    assert f"{count:,} pictures; character accuracy " in output
    with pytest.raises(CaptchaPipelineError, match="The section captcha of the configuration differs"):
        call("cross-validate", *options, "--set", "captcha.width=48")


@pytest.mark.long
def test_the_strength_page_has_labels_readers_and_changes(
    first_run: history.RunRecord, options: list[str], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strength, "_PARTS_OF_ROUNDS", (8,))
    monkeypatch.setattr(strength, "_UNTRAINED_PICTURES", 6)
    monkeypatch.setattr(drawn_styles, "_READ", 60)
    output = call("strength", *options, "--set", "trainer.epochs=2")
    page = Path(config.strength_dir, strength_page.PAGE)
    assert str(page) in output.replace("\n", "")
    transformed = first_run.artifact_uri("Transform", "transformed_examples")
    count = sum(len(examples(f"{transformed}/Split-{split}")) for split in ("train", "eval"))
    assert f"Up to 6 fits, each to {count // 8:,} to {count // 2:,} of {count:,} pictures" in output
    assert "All fits together take at most about" in output
    assert "drawn pictures each: about" in output, "the number of further fits and their time are told before they start"
    html = page.read_text(encoding="utf-8")
    assert first_run.run_id in html
    assert "These pictures are drawn, so the drawing can be changed" in html
    for change in ("more dots: 8 instead of 4", "one more curve through the text: 1 instead of 0", "one more character"):
        assert change in html
    assert "ddddocr" in html
    assert "Tesseract" in html
    assert not [path for path in Path(config.root).iterdir() if path.name != config.name], "no temporary folder is left"


def test_the_signatures_of_the_pushed_model(first_run: history.RunRecord, config: Config) -> None:
    loaded = tf.saved_model.load(str(serving_dir.versions(config.serving_dir)[0].path))
    assert set(loaded.signatures) == {"serving_default", "serving_examples", "transform_features", "explain"}
    test = examples(f"{first_run.artifact_uri('CaptchaExampleGen', 'examples')}/Split-test")[:3]
    images = [value(example, IMAGE) for example in test]
    good = loaded.signatures["serving_default"](image=tf.constant([images[0], b"no picture", images[1]]))
    assert good["valid"].numpy().tolist() == [True, False, True]
    assert good["text"].numpy()[1] == b""
    serialized = tf.constant([example.SerializeToString() for example in test])
    by_example = loaded.signatures["serving_examples"](examples=serialized)
    assert by_example["text"].numpy()[:2].tolist() == [good["text"].numpy()[0], good["text"].numpy()[2]]
    ids = loaded.signatures["transform_features"](examples=serialized)[LABEL_IDS].numpy().tolist()
    assert ids == [config.captcha.encode(value(example, LABEL).decode()) for example in test]


def test_the_report_and_the_history_show_the_run(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    html = results.result_of(config, first_run).report.read_text(encoding="utf-8")
    assert first_run.run_id in html
    assert "report.html" in call("report", *options)
    assert first_run.run_id[:16].replace("T", " ") in (table := call("runs", *options))
    assert "by hand" in table
    assert first_run.run_id in Path(config.report_dir, "trend.html").read_text(encoding="utf-8")
    assert first_run.pushed_version
    assert "span-000001" in call("runs", "--version", first_run.pushed_version, *options)


def test_the_report_uses_the_configuration_of_its_run(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    report = results.result_of(config, first_run).report
    before = report.read_text(encoding="utf-8")
    call("report", *options, "--set", "captcha.charset=abcdef", "--set", "captcha.length={min: 1, max: 5}")
    assert report.read_text(encoding="utf-8") == before


def test_evaluate_agrees_with_the_evaluator(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    measured = json.loads(call("evaluate", "--json", *options))
    figures = results.result_of(config, first_run).evaluation.results
    assert measured["example_count"] == figures.example_count
    assert measured["sequence_accuracy"]["value"] == pytest.approx(figures.sequence_accuracy.value)


def test_predict_reads_good_files_and_reports_bad_files(first_run: history.RunRecord, options: list[str], tmp_path: Path) -> None:
    test = examples(f"{first_run.artifact_uri('CaptchaExampleGen', 'examples')}/Split-test")
    good, text, empty = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "empty.png"
    good.write_bytes(value(test[0], IMAGE))
    text.write_text("not a picture")
    empty.touch()
    lines = call("predict", "--json", *options, str(text), str(good), str(empty), str(tmp_path / "missing.png"), exit_code=1).splitlines()
    answers = [json.loads(line) for line in lines]
    assert [bool(answer["error"]) for answer in answers] == [True, False, True, True]
    assert len(answers[1]["text"]) == 2
    assert call("predict", *options, str(good)).count("good.png") == 1


def test_a_run_without_changes_shows_the_last_result(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    call("run", *options)  # makes sure that these options are those of the newest run
    before = last_run(config)
    output = " ".join(call("run", *options).split())
    assert "Nothing has changed since the run of" in output
    assert f"Blessed, in production as version {first_run.pushed_version}" in output
    assert last_run(config) == before
    report = results.result_of(config, before).report
    report.unlink()
    assert "every step was cached" in call("run", *options)
    assert report.exists(), "a missing report is written again"


def test_every_step_of_a_second_run_is_cached(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    output = call("run", *options, *OF_NO_STEP)
    assert "every step was cached" in output
    again = last_run(config)
    assert [step.state for step in again.steps] == ["cached"] * len(again.steps)
    assert len(serving_dir.versions(config.serving_dir)) == 1


def test_a_replaced_shard_is_refused_even_if_every_step_is_cached(
    first_run: history.RunRecord, options: list[str], config: Config, tmp_path: Path
) -> None:
    (span,) = list_spans(config.data.root)
    shard, other = span.files("test")[0], span.files("eval")[0]
    content, state = shard.read_bytes(), shard.stat()
    shard.write_bytes(other.read_bytes())
    for command in (["run"], ["evaluate"], ["data", "show", "--out", str(tmp_path / "sheet.png")]):
        with pytest.raises(CaptchaPipelineError, match=r"span-000001/test/.* has changed: .* put the file back as it was"):
            call(*command, *options)
    shard.write_bytes(content)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert "Nothing has changed since" in call("run", *options)


def test_without_a_reason_nothing_is_retrained(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    assert reason_to_retrain(config) is None
    before = len(history.runs(config.metadata_path))
    assert "Nothing to do" in call("retrain", *options)
    assert len(history.runs(config.metadata_path)) == before
    changed = load_config(options[1], [*options[3::2], "trainer.epochs=1"])
    reason = reason_to_retrain(changed)
    assert reason
    assert reason.words.startswith("the configuration, the code")


def test_a_missed_floor_is_a_result_and_no_error(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    figures = results.result_of(config, first_run).evaluation.results
    if figures.sequence_accuracy.value == 1:
        pytest.fail("the tiny model must not be perfect, or no floor is above it")
    changes = ["--set", "evaluator.min_sequence_accuracy=1", "--set", "evaluator.min_pictures=500"]
    output = call("run", *options, *changes, exit_code=NOT_PUSHED)
    assert "under the floor of 100.00%" in output
    warning = f"there are only {figures.example_count} test pictures, fewer than evaluator.min_pictures (500)"
    assert f"Warning: {warning}" in output
    assert [kept.startswith(warning) for kept in retrainings(config)[-1].warnings] == [True]
    assert warning in results.result_of(config, history.latest_complete_run(config.metadata_path)).report.read_text(encoding="utf-8")
    run = last_run(config)
    assert {step.node for step in run.steps if step.state == "done"} == {"CaptchaEvaluator", "AtomicPusher"}
    assert len(serving_dir.versions(config.serving_dir)) == 1


@pytest.mark.long
def test_a_new_hyperparameter_reruns_the_trainer_and_later_steps(first_run: history.RunRecord, options: list[str], config: Config) -> None:
    printed = call("retrain", *options, "--set", "trainer.epochs=1", exit_code=NOT_PUSHED)
    assert "Retraining: the configuration" in printed
    run = last_run(config)
    assert {step.node for step in run.steps if step.state == "done"} == MODEL_STEPS
    assert results.result_of(config, run).evaluation.overall.production is not None
    assert run.production_fingerprint == first_run.fingerprint
    about = Path(str(run.artifact_uri("Trainer", "model")), "Format-Serving", "assets.extra", SPEC_FILE)
    assert (json.loads(about.read_text())["warm_start"], json.loads(about.read_text())["base_problem"]) == (False, "")


@pytest.fixture(scope="module")
def warm(first_run: history.RunRecord, options: list[str]) -> list[str]:
    """Returns options for a warm start from the model in production, and for a gate that accepts small losses."""
    changes = ["trainer.warm_start={epochs: 1, learning_rate: 1e-3}", "data.golden=1", "drift.sharpness=0"]
    # After one epoch a few pictures more or less are luck; the verdict has its own tests.
    changes += ["evaluator.confidence=0.999", "evaluator.max_regression=1", "evaluator.max_slice_regression=1"]
    return [*options, *(word for change in changes for word in ("--set", change))]


@pytest.fixture(scope="module")
def of_new_span(options: list[str], warm: list[str], config: Config) -> tuple[str, history.RunRecord]:
    """Returns the output and the record of a retraining with a second span of different pictures."""
    call("data", "synth", *options, "--set", "synth.noise_dots=8")
    return call("retrain", *warm), last_run(config)


@pytest.fixture(scope="module")
def pushed(warm: list[str], of_new_span: tuple[str, history.RunRecord], config: Config) -> tuple[serving_dir.Pushed, serving_dir.Pushed]:
    """Returns the models of that retraining, and of a forced retraining."""
    assert "Retraining: requested" in call("retrain", "--force", *warm)
    second, first = serving_dir.versions(config.serving_dir)[:2]
    return first, second


@pytest.mark.long
def test_a_new_span_is_learned_with_a_warm_start(
    first_run: history.RunRecord, warm: list[str], of_new_span: tuple[str, history.RunRecord], config: Config
) -> None:
    printed, run = of_new_span
    assert "Retraining: new in the window: span 2" in printed
    assert "differ from those of the other spans:" in " ".join(printed.split())
    assert "golden set" in printed
    assert run.trigger == "new in the window: span 2"
    fit = json.loads(Path(str(run.artifact_uri("Trainer", "model_run")), HISTORY_FILE).read_text())
    assert len(fit) == 1
    assert fit[0]["val_sequence_accuracy"] > 0.5, "from nothing one epoch is not enough"
    result = results.result_of(config, run)
    assert list(result.sets) == ["all", "newest span", "golden set"]
    assert all(part.production and part.p_value is not None for part in result.sets.values())
    html = result.report.read_text(encoding="utf-8")
    assert "Comparison with the production model" in html
    assert "span-000002" in html
    assert run.pushed_version
    lineage = call("runs", "--version", run.pushed_version, *warm)
    assert f"Its fit continued from version {first_run.pushed_version}." in lineage
    for span in list_spans(config.data.root):
        assert span.checksum in lineage
    assert [best.recipe for best in serving_dir.best_on_golden_sets(config.serving_dir, "another")] == [run.recipe]
    assert "Nothing to do" in call("retrain", *warm)
    printed = call("run", *warm, *OF_NO_STEP)
    assert "every step was cached" in printed, "what a push notes makes no work for the same combination"


@pytest.mark.long
def test_a_plain_run_after_a_forced_retraining_shows_its_result(
    warm: list[str], config: Config, pushed: tuple[serving_dir.Pushed, serving_dir.Pushed]
) -> None:
    asked_for = last_run(config)
    assert asked_for.attempt == 1
    assert {step.node for step in asked_for.steps if step.state == "done"} == MODEL_STEPS
    before = serving_dir.versions(config.serving_dir)
    printed = " ".join(call("run", *warm).split())
    assert f"Blessed, in production as version {before[0].version}" in printed
    assert "Nothing has changed since the run of" in printed
    assert last_run(config) == asked_for
    assert serving_dir.versions(config.serving_dir) == before
    assert before[0].fingerprint == pushed[1].fingerprint != pushed[0].fingerprint
    assert "Nothing to do" in call("retrain", *warm)


@pytest.mark.long
def test_a_run_and_the_pages_show_a_rollback(
    warm: list[str], config: Config, pushed: tuple[serving_dir.Pushed, serving_dir.Pushed]
) -> None:
    first, second = pushed
    call("rollback", str(first.version), *warm)
    back = serving_dir.versions(config.serving_dir)[0]
    printed = " ".join(call("run", *warm, exit_code=NOT_PUSHED).split())
    assert f"Withdrawn by a rollback, not pushed again: new data will make a new model. Version {back.version} is in production." in printed
    assert "Blessed" not in printed
    assert serving_dir.versions(config.serving_dir)[0] == back
    assert f"In production: version {back.version}, a copy of {first.version}" in call("runs", *warm)
    trend = Path(config.report_dir, "trend.html").read_text(encoding="utf-8")
    assert f"In production: version <bdi>{back.version}</bdi>, a copy of <bdi>{first.version}</bdi>" in trend

    call("rollback", str(second.version), *warm)
    again = serving_dir.versions(config.serving_dir)[0]
    assert f"Blessed, in production as version {again.version}" in " ".join(call("run", *warm).split())


@pytest.mark.long
def test_a_removed_version_is_not_reported_as_pushed(
    warm: list[str], config: Config, pushed: tuple[serving_dir.Pushed, serving_dir.Pushed]
) -> None:
    serving = Path(config.serving_dir)
    newest = serving_dir.versions(serving)
    ours = [version for version in newest if version.fingerprint == pushed[1].fingerprint]
    for version in ours:
        version.path.rename(serving.with_name(version.path.name))
    try:
        printed = " ".join(call("run", *warm, exit_code=NOT_PUSHED).split())
        assert f"Nothing was pushed: an earlier run pushed this model as version {pushed[1].version}" in printed
        assert f"Version {serving_dir.versions(serving)[0].version} is in production." in printed
    finally:
        for version in ours:
            serving.with_name(version.path.name).rename(version.path)
    assert serving_dir.versions(serving) == newest


@pytest.mark.long
def test_a_version_stores_its_recipe_and_its_base(config: Config, pushed: tuple[serving_dir.Pushed, serving_dir.Pushed]) -> None:
    runs = [run for run in history.runs(config.metadata_path) if run.pushed_version and run.spans == (1, 2)]
    first, second = ({run.recipe for run in runs if run.attempt == attempt} for attempt in (0, 1))
    assert (first, second) == ({pushed[0].recipe}, {pushed[1].recipe})
    assert {run.production_fingerprint for run in runs if run.attempt == 1} == {pushed[0].fingerprint}
    about = json.loads((pushed[1].path / "assets.extra" / SPEC_FILE).read_text())
    assert (about["warm_start"], about["base_problem"]) == (True, "")
