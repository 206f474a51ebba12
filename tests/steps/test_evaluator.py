import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx.types import channel_utils, standard_artifacts

from components.base.errors import CaptchaPipelineError
from components.base.features import WINDOW
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden, tfma_metrics, tfma_values
from components.evaluation.golden import Best, GoldenReading
from components.evaluator import CaptchaEvaluator, CaptchaEvaluatorExecutor, eval_shared_model, load_results
from components.latest_pushed_model import LatestPushedModel
from components.pusher import AtomicPusher
from components.serving.serving_dir import versions
from tests.support import reader_model
from tests.support.evaluation_run import evaluate

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec()
COUNT = 200
BIASES = {"good": 0.0, "worse": 1.0, "bad": 4.0}
GOLDEN_SPAN = [i for i in range(COUNT) if reader_model.span_of(i) == "span-000001"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Returns a folder with test examples, a good, a worse and a bad reader, and a folder without a model."""
    root = tmp_path_factory.mktemp("store")
    for name, count in {"examples": COUNT, "no examples": 0}.items():
        (root / name / "Split-test").mkdir(parents=True)
        reader_model.write_readings(root / name / "Split-test" / "data-00000-of-00001.gz", SPEC, count)
    for name, bias in BIASES.items():
        reader_model.save_reader(root / name / "Format-Serving", SPEC, bias, fingerprint=name)
    (root / "none").mkdir()
    return root


def blessed(blessing) -> bool:
    """Returns whether the artifact is blessed. Its property and its file, which Pusher reads, must agree."""
    (name,) = [path.name for path in Path(blessing.uri).iterdir() if path.name != "golden.json"]
    assert (name == "BLESSED") == (blessing.get_int_custom_property("blessed") == 1)
    return name == "BLESSED"


def judgement(uri: str) -> dict:
    return json.loads(Path(uri, "judgement.json").read_text())


def test_a_model_above_the_floor_without_a_baseline_is_blessed(store, tmp_path, monkeypatch):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.9)
    assert blessed(blessing)
    assert judgement(uri)["failures"] == judgement(uri)["warnings"] == []
    results = load_results(uri)
    assert results.overall.production is None
    assert results.overall.p_value is None
    assert results.overall.count == results.results.example_count == COUNT
    assert results.golden is None
    assert list(results.slices["characters"]) == list("0123456789")
    monkeypatch.setattr(tfma_values, "CONFUSION", "a figure that this release does not have")
    with pytest.raises(CaptchaPipelineError, match=r"metrics of another release of this project.*`captcha-pipeline run`"):
        load_results(uri)


def test_a_model_below_the_floor_and_production_is_not_blessed(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "bad", "good", floor=0.9, golden=1)
    assert not blessed(blessing)
    results = load_results(uri)
    failures = judgement(uri)["failures"]
    for words, part in {
        "the full-sequence accuracy": results.overall,
        "the full-sequence accuracy on the newest span": results.slices["span"]["span-000002"],
        "the full-sequence accuracy on the golden set": results.slices["span"]["span-000001"],
    }.items():
        mine = part.candidate
        assert f"{words} is {mine.value:.2%} ({mine.lower:.2%} to {mine.upper:.2%}), under the floor of 90.00%" in failures
        assert any(it.startswith(f"{words} is {mine.value:.2%}, {-part.gain:.2%} below that of the production model") for it in failures)
    assert len(failures) == 6


def test_the_two_models_are_compared_picture_by_picture(store, tmp_path):
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    truth = np.array([SPEC.encode(label) for label in labels])
    good, bad = ((answer.argmax(-1) == truth).all(-1) for answer in (logits, logits + 4.0 * np.eye(SPEC.num_classes)[0]))
    uri, _ = evaluate(store, tmp_path / "run", SPEC, "bad", "good", floor=0.0)
    results = load_results(uri)
    for members, part in ((slice(None), results.overall), (slice(None, None, 4), results.slices["span"]["span-000002"])):
        assert part.only_candidate == (bad & ~good)[members].sum()
        assert part.only_production == (good & ~bad)[members].sum()
    kept = judgement(uri)["sets"]["all"]
    assert kept["p_value"] == results.overall.p_value
    assert kept["p_value"] < 1e-6
    assert kept["count"] == COUNT
    assert kept["production"]["value"] == good.mean()


def test_a_small_newest_span_gives_a_warning_and_no_verdict(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "bad", "good", floor=0.0, regression=1.0, golden=1, min_pictures=51)
    kept = judgement(uri)
    assert kept["warnings"] == [
        "the newest span has only 50 test pictures, fewer than evaluator.min_pictures (51): it is not used to judge the model"
    ]
    assert [failure.partition(" is significantly below")[0] for failure in kept["failures"]] == [
        "the full-sequence accuracy",
        "the full-sequence accuracy on the golden set",
    ]
    assert kept["sets"]["newest span"]["count"] == 50, "its figures are shown all the same"
    assert not blessed(blessing)


def right_of(tmp_path: Path, bias: float) -> np.ndarray:
    """Returns which examples a reader reads correctly, bool [COUNT]."""
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    truth = np.array([SPEC.encode(label) for label in labels])
    right: np.ndarray = ((logits + bias * np.eye(SPEC.num_classes)[0]).argmax(-1) == truth).all(-1)
    return right


def test_the_golden_set_is_recorded_picture_by_picture(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path / "run", SPEC, "worse", "none", floor=0.0, golden=1)
    found = load_results(uri).golden
    assert found
    assert GoldenReading.model_validate_json((Path(blessing.uri) / "golden.json").read_bytes()) == found
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    right = right_of(tmp_path, BIASES["worse"])
    digests = [golden.digest(logits[i].tobytes(), labels[i]) for i in GOLDEN_SPAN]
    assert found == golden.reading(digests, [bool(right[i]) for i in GOLDEN_SPAN])
    assert 0 < len(found.misread) < found.pictures == len(GOLDEN_SPAN)


@pytest.mark.long
def test_the_candidate_is_also_compared_with_the_best_so_far(store, tmp_path):
    """The candidate is as good as the model in production, but an older pushed model read the golden set perfectly."""
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    digests = [golden.digest(logits[i].tobytes(), labels[i]) for i in GOLDEN_SPAN]
    perfect = golden.reading(digests, [True] * len(digests))
    mine = golden.reading(digests, [bool(right_of(tmp_path, BIASES["worse"])[i]) for i in GOLDEN_SPAN])
    assert len(mine.misread) > 5
    for name in ("examples", "worse"):
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / name).symlink_to(store / name)
    shutil.copytree(store / "worse", tmp_path / "store" / "production")

    best = Best(**perfect.model_dump(), version=17, recipe="old", models=2)
    of_another_set = best.model_copy(update={"content": "other", "version": 16})
    (tmp_path / "store" / "production" / "golden.json").write_text(golden.to_json((of_another_set, best)))
    uri, blessing = evaluate(tmp_path / "store", tmp_path / "run", SPEC, "worse", "production", floor=0.0, golden=1)
    kept = judgement(uri)
    (failure,) = kept["failures"]
    assert f"below that of version 17, the best so far, a significant difference ({len(mine.misread)} pictures lost, 0 gained" in failure
    assert kept["sets"]["golden set, best so far"]["production"]["value"] == 1.0
    assert not blessed(blessing)


@pytest.mark.long
def test_a_series_of_slightly_worse_models_is_stopped(tmp_path, monkeypatch):
    """Three times from LatestPushedModel through the Evaluator to the push: only the best model so far stops the third model."""
    monkeypatch.setattr("components.pusher.check_servable", lambda *_: None)  # these models read no pictures
    store, serving = tmp_path / "store", tmp_path / "serving"
    (store / "examples" / "Split-test").mkdir(parents=True)
    reader_model.write_readings(store / "examples" / "Split-test" / "data-00000-of-00001.gz", SPEC, 800)

    def retrain(name: str, bias: float) -> dict[str, Any]:
        run = tmp_path / name
        reader_model.save_reader(store / name / "Format-Serving", SPEC, bias, fingerprint=name)
        production = standard_artifacts.Model()
        production.uri = str(store / f"production before {name}")
        Path(production.uri).mkdir()
        strings = {"serving_dir": str(serving), "spec": SPEC.model_dump_json(), "settings": "{}", "as_of": "", "source_digest": ""}
        found = standard_artifacts.Examples()
        found.set_string_custom_property(WINDOW, name)
        latest = LatestPushedModel(examples=channel_utils.as_channel([found]), epochs=1, attempt=0, **strings)
        latest.executor_spec.executor_class().Do({"examples": [found]}, {"model": [production]}, latest.exec_properties)
        uri, blessing = evaluate(store, run, SPEC, name, f"production before {name}", floor=0.8, regression=0.01, golden=1)
        examples, model, pushed = standard_artifacts.Examples(), standard_artifacts.Model(), standard_artifacts.PushedModel()
        examples.uri, model.uri, pushed.uri = str(store / "examples"), str(store / name), str(run / "pushed")
        examples.split_names = json.dumps(["train", "eval", "test"])
        inputs = {"examples": [examples], "model": [model], "model_blessing": [blessing]}
        channels = {key: channel_utils.as_channel(artifacts) for key, artifacts in inputs.items()}
        pusher = AtomicPusher(**channels, serving_dir=str(serving), keep=5)
        pusher.executor_spec.executor_class().Do(inputs, {"pushed_model": [pushed]}, pusher.exec_properties)
        return judgement(uri)

    assert retrain("first", 0.25)["failures"] == []
    second = retrain("second", 0.55)
    assert second["failures"] == []
    assert "golden set, best so far" not in second["sets"], "that is the one in production"
    third = retrain("third", 0.7)
    first_version = versions(serving)[-1].version
    (failure,) = third["failures"]
    assert f"below that of version {first_version}, the best so far, a significant difference (10 pictures lost, 1 gained" in failure
    assert third["sets"]["golden set"]["p_value"] > 0.05, "below the one in production it may be by chance"
    assert [pushed.fingerprint for pushed in versions(serving)] == ["second", "first"]


def test_a_model_with_another_spec_is_no_baseline(store, tmp_path):
    other = CaptchaSpec(charset="0123456789", length=4, width=SPEC.width + 1)
    reader_model.save_reader(tmp_path / "store" / "other" / "Format-Serving", other)
    for name in ("examples", "good"):
        (tmp_path / "store" / name).symlink_to(store / name)
    uri, blessing = evaluate(tmp_path / "store", tmp_path / "run", SPEC, "good", "other", floor=0.9)
    assert blessed(blessing)
    assert load_results(uri).overall.production is None


def test_a_model_without_test_examples_is_not_blessed(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.0, examples="no examples")
    assert not blessed(blessing)
    (failure,) = judgement(uri)["failures"]
    assert "no examples" in failure
    with pytest.raises(ValueError, match="no metrics"):
        load_results(uri)


def test_component_evaluates_the_test_split():
    config = tfma_metrics.eval_config(SPEC, confidence=0.95, source_digest="0")
    model = channel_utils.as_channel([standard_artifacts.Model()])
    component = CaptchaEvaluator(
        channel_utils.as_channel([standard_artifacts.Examples()]), model, model, config, 0, 0.98, 0.005, 0.05, 0.95, 50
    )
    assert json.loads(component.exec_properties["example_splits"]) == ["test"]
    assert component.executor_spec.executor_class is CaptchaEvaluatorExecutor
    assert set(component.outputs) == {"evaluation", "blessing"}


def test_signatures_take_their_input_by_position(store):
    config = tfma_metrics.eval_config(SPEC, confidence=0.95, source_digest="0")
    arguments = {"eval_saved_model_path": str(store / "good" / "Format-Serving"), "model_name": "", "eval_config": config}
    by_position = eval_shared_model(**arguments).model_loader.load().signatures
    by_keyword = tfma.default_eval_shared_model(**arguments).model_loader.load().signatures
    files = tf.io.gfile.glob(str(store / "examples" / "Split-test" / "*"))
    examples = next(iter(tf.data.TFRecordDataset(files, compression_type="GZIP").batch(COUNT)))
    assert by_position.keys() == by_keyword.keys()
    for name, signature in by_position.items():
        ours, theirs = signature(examples), by_keyword[name](examples=examples)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value)
