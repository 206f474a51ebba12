import json
from pathlib import Path

import numpy as np
import pytest
import reader_model
import tensorflow as tf
import tensorflow_model_analysis as tfma
from evaluation_run import evaluate
from tfx.types import channel_utils, standard_artifacts

from components import tfma_metrics
from components.captcha import CaptchaSpec
from components.evaluator import CaptchaEvaluator, CaptchaEvaluatorExecutor, eval_shared_model, load_results

SPEC = CaptchaSpec()
COUNT = 200


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Test examples; three readers: one that reads what the logits say, one a little and one much worse; and no model."""
    root = tmp_path_factory.mktemp("store")
    for name, count in {"examples": COUNT, "no examples": 0}.items():
        (root / name / "Split-test").mkdir(parents=True)
        reader_model.write_readings(root / name / "Split-test" / "data-00000-of-00001.gz", SPEC, count)
    for name, bias in {"good": 0.0, "worse": 1.0, "bad": 4.0}.items():
        reader_model.save_reader(root / name / "Format-Serving", SPEC, bias)
    (root / "none").mkdir()
    return root


def blessed(blessing) -> bool:
    """Whether the artifact says so, both as a property and as a file, which is what Pusher looks at."""
    (name,) = [path.name for path in Path(blessing.uri).iterdir()]
    assert (name == "BLESSED") == (blessing.get_int_custom_property("blessed") == 1)
    return name == "BLESSED"


def judgement(uri: str) -> dict:
    return json.loads(Path(uri, "judgement.json").read_text())


def test_no_baseline_and_above_the_floor(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.9)
    assert blessed(blessing)
    assert judgement(uri)["failures"] == []
    results = load_results(uri)
    assert results.overall.champion is None
    assert results.overall.p_value is None
    assert results.overall.challenger.example_count == COUNT
    assert list(results.slices["characters"]) == list("0123456789")


def test_below_the_floor_and_below_production(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "bad", "good", floor=0.9, golden=1)
    assert not blessed(blessing)
    results = load_results(uri)
    failures = judgement(uri)["failures"]
    for words, part in {
        "the full-sequence accuracy": results.overall,
        "the full-sequence accuracy on the newest span": results.slices["span"]["span-000002"],
        "the full-sequence accuracy on the golden set": results.slices["span"]["span-000001"],
    }.items():
        mine = f"{part.challenger.sequence_accuracy.value:.2%}"
        assert f"{words} is {mine}, under the floor of 90.00%" in failures
        assert f"{words} is {mine}, {-part.gain:.2%} below that of the model in production; 0.50% are allowed" in failures
    assert len(failures) == 6


def test_the_two_models_are_compared_picture_by_picture(store, tmp_path):
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    truth = np.array([SPEC.encode(label) for label in labels])
    good, bad = ((answer.argmax(-1) == truth).all(-1) for answer in (logits, logits + 4.0 * np.eye(SPEC.num_classes)[0]))
    uri, _ = evaluate(store, tmp_path / "run", SPEC, "bad", "good", floor=0.0)
    results = load_results(uri)
    for members, part in ((slice(None), results.overall), (slice(None, None, 4), results.slices["span"]["span-000002"])):
        assert part.only_challenger == (bad & ~good)[members].sum()
        assert part.only_champion == (good & ~bad)[members].sum()
    kept = judgement(uri)["sets"]["all"]
    assert kept["p_value"] == results.overall.p_value
    assert kept["p_value"] < 1e-6
    assert kept["count"] == COUNT
    assert kept["champion"]["value"] == good.mean()


def test_exactly_the_allowed_regression_is_allowed(store, tmp_path):
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    truth = np.array([SPEC.encode(label) for label in labels])
    biased = logits + np.eye(SPEC.num_classes)[0]
    good, worse = ((answer.argmax(-1) == truth).all(-1) for answer in (logits, biased))
    lost, floor = [], []
    for members in (slice(None), slice(None, None, 4)):
        lost.append(good[members].mean() - worse[members].mean())
        floor.append(worse[members].mean())
    assert max(lost) > 0
    uri, blessing = evaluate(store, tmp_path, SPEC, "worse", "good", floor=min(floor), regression=max(lost))
    assert load_results(uri).overall.challenger.sequence_accuracy.value == worse.mean()
    assert blessed(blessing), judgement(uri)["failures"]


def test_a_model_that_reads_something_else_is_no_baseline(store, tmp_path):
    other = CaptchaSpec(charset="0123456789", length=4, width=SPEC.width + 1)
    reader_model.save_reader(tmp_path / "store" / "other" / "Format-Serving", other)
    for name in ("examples", "good"):
        (tmp_path / "store" / name).symlink_to(store / name)
    uri, blessing = evaluate(tmp_path / "store", tmp_path / "run", SPEC, "good", "other", floor=0.9)
    assert blessed(blessing)
    assert load_results(uri).overall.champion is None


def test_no_examples_is_not_blessed(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.0, examples="no examples")
    assert not blessed(blessing)
    (failure,) = judgement(uri)["failures"]
    assert "no examples" in failure
    with pytest.raises(ValueError, match="no figures"):
        load_results(uri)


def test_component_evaluates_the_test_split():
    config = tfma_metrics.eval_config(SPEC, confidence=0.95, source_digest="0")
    model = channel_utils.as_channel([standard_artifacts.Model()])
    component = CaptchaEvaluator(
        channel_utils.as_channel([standard_artifacts.Examples()]), model, model, config, 0, 0.98, 0.005, 0.05, 0.95
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
