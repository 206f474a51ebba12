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
from components.evaluator import CaptchaEvaluator, CaptchaEvaluatorExecutor, eval_shared_model, load_results, verdict

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


def test_no_baseline_and_above_the_floor(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.9)
    assert blessed(blessing)
    assert verdict(uri).blessed
    assert verdict(uri).failures == []
    results = load_results(uri)
    assert results.baseline is None
    assert results.overall.example_count == COUNT
    assert list(results.slices["characters"]) == list("0123456789")


def test_below_the_floor_and_below_production(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "bad", "good", floor=0.9)
    assert not blessed(blessing)
    results, answer = load_results(uri), verdict(uri)
    assert results.baseline is not None
    mine, theirs = results.overall.sequence_accuracy.value, results.baseline.sequence_accuracy.value
    assert answer.failures == [
        f"sequence_accuracy {mine:.4f} is under the floor 0.9 by {0.9 - mine:.4f}",
        f"sequence_accuracy {mine:.4f} is below that of the model in production, {theirs:.4f}, by {theirs - mine:.4f}; allowed are 0.005",
    ]
    assert not answer.blessed


def test_exactly_the_allowed_regression_is_allowed(store, tmp_path):
    labels, logits = reader_model.write_readings(tmp_path / "again.gz", SPEC, COUNT)
    truth = np.array([SPEC.encode(label) for label in labels])
    biased = logits + np.eye(SPEC.num_classes)[0]
    good, worse = (int((answer.argmax(-1) == truth).all(-1).sum()) for answer in (logits, biased))
    assert worse < good
    uri, blessing = evaluate(store, tmp_path, SPEC, "worse", "good", floor=worse / COUNT, regression=(good - worse) / COUNT)
    assert blessed(blessing), verdict(uri).failures
    assert load_results(uri).overall.sequence_accuracy.value == worse / COUNT


def test_no_examples_is_not_blessed(store, tmp_path):
    uri, blessing = evaluate(store, tmp_path, SPEC, "good", "none", floor=0.0, examples="no examples")
    assert not blessed(blessing)
    (failure,) = verdict(uri).failures
    assert "no examples" in failure
    with pytest.raises(ValueError, match="no figures"):
        load_results(uri)


def test_component_evaluates_the_test_split():
    config = tfma_metrics.eval_config(SPEC, confidence=0.95, source_digest="0")
    model = channel_utils.as_channel([standard_artifacts.Model()])
    component = CaptchaEvaluator(channel_utils.as_channel([standard_artifacts.Examples()]), model, model, config, 0.98, 0.005)
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
