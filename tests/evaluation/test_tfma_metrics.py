"""TFMA's figures from a real Beam run of a real SavedModel, compared with independent NumPy code on the same logits."""

import json
from typing import Any

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from scipy.sparse import csr_array
from tensorflow_model_analysis.proto import config_pb2
from tfx.utils import proto_utils

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.evaluation import tfma_metrics, tfma_values
from components.evaluation.metrics import ReadingCounts
from components.evaluator import load_results
from tests.support import reader_model
from tests.support.evaluation_run import evaluate

pytestmark = pytest.mark.slow

COUNT = 700  # more than one batch of the counting
SPEC = CaptchaSpec(charset="абвгд", length=LengthRange(min=1, max=3))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    (root / "examples" / "Split-test").mkdir(parents=True)
    labels, logits = reader_model.write_readings(root / "examples" / "Split-test" / "data-00000-of-00001.gz", SPEC, COUNT)
    reader_model.save_reader(root / "candidate" / "Format-Serving", SPEC)
    reader_model.save_reader(root / "baseline" / "Format-Serving", SPEC, bias=2.0)
    uri, _ = evaluate(root, root / "run", SPEC, "candidate", "baseline", floor=0.5)
    return load_results(uri), labels, logits.astype(np.float64), uri


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def texts(logits):
    """Returns the texts that a model with these logits reads, padded with "_": the most probable text of all lengths."""
    found = []
    for heads in np.log(softmax(logits)):
        best = heads[:, :-1].argmax(-1)
        scores = {n: heads[range(n), best[:n]].sum() + heads[n:, -1].sum() for n in range(SPEC.min_length, SPEC.max_length + 1)}
        length = max(scores, key=lambda n: scores[n])
        found.append("".join(SPEC.characters[c] for c in best[:length]))
    return padded(found)


def padded(labels):
    return [label.ljust(SPEC.max_length, "_") for label in labels]


def accuracy(truth, read):
    return np.mean([t == r for t, r in zip(truth, read, strict=True)])


def test_overall_figures(evaluated):
    results, labels, logits, _ = evaluated
    truth, read, overall = padded(labels), texts(logits), results.results
    assert overall.example_count == COUNT
    assert overall.sequence_accuracy.value == pytest.approx(accuracy(truth, read))
    assert 0.5 < overall.sequence_accuracy.lower < overall.sequence_accuracy.value < overall.sequence_accuracy.upper < 1
    for i, (rate, count) in enumerate(zip(overall.position_accuracy, overall.position_count.tolist(), strict=True)):
        there = [(t[i], r[i]) for t, r in zip(truth, read, strict=True) if t[i] != "_"]
        assert count == len(there)
        assert rate.value == pytest.approx(accuracy(*zip(*there, strict=True)))
    characters = [t == r for t, r in zip("".join(truth), "".join(read), strict=True) if t != "_"]
    assert overall.character_accuracy == pytest.approx(np.mean(characters))
    classes = SPEC.characters + "_"
    pairs = list(zip("".join(truth), "".join(read), strict=True))
    matrix = np.array([[pairs.count((t, r)) for r in classes] for t in classes])
    matrix[-1, -1] = 0
    np.testing.assert_array_equal(overall.confusion_matrix.toarray(), matrix)
    np.testing.assert_allclose(overall.character_precision, (matrix.diagonal() / matrix.sum(0))[:-1])
    np.testing.assert_allclose(overall.character_recall, (matrix.diagonal() / matrix.sum(1))[:-1])


def test_calibration(evaluated):
    results, labels, logits, _ = evaluated
    ids = [[(SPEC.characters + "_").index(c) for c in text] for text in texts(logits)]
    confidence = np.take_along_axis(softmax(logits), np.array(ids)[..., None], -1).prod((-2, -1))
    right = np.array([t == r for t, r in zip(padded(labels), texts(logits), strict=True)])
    edges = np.linspace(0, 1, 16)
    error = 0.0
    for low, high, number in zip(edges[:-1], edges[1:], results.results.calibration_count, strict=True):
        inside = (low < confidence) & (confidence <= high)
        assert number == inside.sum()
        error += abs(right[inside].sum() - confidence[inside].sum()) / COUNT
    assert results.results.expected_calibration_error == pytest.approx(error, abs=1e-5)


def test_baseline(evaluated):
    results, labels, logits, _ = evaluated
    biased = logits.copy()
    biased[:, :, 0] += 2.0
    assert results.overall.production is not None
    assert results.overall.production.value == pytest.approx(accuracy(padded(labels), texts(biased)))
    assert results.overall.gain > 0


def test_slices(evaluated):
    results, labels, logits, _ = evaluated
    truth, read = padded(labels), texts(logits)
    expected = {
        "characters": {c: [i for i, label in enumerate(labels) if c in label] for c in SPEC.characters},
        "source": {s: [i for i in range(COUNT) if reader_model.source_of(i) == s] for s in ("street", "synthetic")},
        "difficulty": {
            f"{d} contrast": [i for i in range(COUNT) if reader_model.difficulty_of(i) == f"{d} contrast"]
            for d in ("high", "low", "medium")
        },
        "span": {s: [i for i in range(COUNT) if reader_model.span_of(i) == s] for s in ("span-000001", "span-000002")},
    }
    assert {key: list(by_value) for key, by_value in results.slices.items()} == {key: list(value) for key, value in expected.items()}
    for key, by_value in expected.items():
        for value, members in by_value.items():
            part = results.slices[key][value]
            assert part.count == len(members)
            assert part.candidate.value == pytest.approx(accuracy([truth[i] for i in members], [read[i] for i in members]))


def test_a_slice_has_only_the_figures_used_to_judge_it(evaluated):
    """A slice has no confusion matrix, because there would be one for every character."""
    names = {}
    for item in tfma.load_metrics(evaluated[-1]):
        key = item.slice_key.single_slice_keys
        names[key[0].bytes_value.decode() if key else ""] = {pair.key.name for pair in item.metric_keys_and_values}
    assert {"confusion", "character_recall", "calibration_count", "position_accuracy_1"} <= names.pop("")
    assert len(names) == len(SPEC.characters) + 7
    rates = {"sequence_accuracy", "sequence_accuracy_lower", "sequence_accuracy_upper"}
    expected = {"example_count", "only_candidate_right", "only_production_right", *rates}
    assert {name: kept ^ expected for name, kept in names.items() if kept != expected} == {}


def test_results_survive_the_conversion_to_metrics():
    counts = ReadingCounts(12, 3)  # two-digit positions
    counts.add(np.zeros((5, 12), int), np.random.default_rng(1).dirichlet(np.ones(3), (5, 12)))
    results = counts.results(0.9)
    back = tfma_values.from_metrics(tfma_values.to_metrics(results))
    for name, value in vars(results).items():
        found = getattr(back, name)
        np.testing.assert_equal(*(item.toarray() if isinstance(item, csr_array) else item for item in (found, value)))


def config(**changes: Any) -> config_pb2.EvalConfig:
    settings: dict[str, Any] = {"confidence": 0.95, "source_digest": "1", "golden_span": ""} | changes
    return tfma_metrics.eval_config(SPEC, **settings)


def test_config_differs_exactly_if_a_setting_differs():
    assert proto_utils.proto_to_json(config()) == proto_utils.proto_to_json(config())
    changes: list[dict[str, Any]] = [{"confidence": 0.9}, {"source_digest": "2"}, {"golden_span": "span-000001"}]
    for change in changes:
        assert proto_utils.proto_to_json(config(**change)) != proto_utils.proto_to_json(config()), change


def test_metric_is_made_from_its_configuration():
    (metrics_spec,) = config().metrics_specs
    (metric,) = metrics_spec.metrics
    assert metric.module == "components.evaluation.tfma_metrics"
    made = getattr(tfma_metrics, metric.class_name).from_config(json.loads(metric.config))
    assert isinstance(made, tfma.metrics.Metric)
    names = [[key.name for key in computation.keys] for computation in made.computations(model_names=["candidate", "baseline"])]
    of_slices, of_all = names
    # The figures of the second model have the same names.
    assert set(of_slices) == {
        *("example_count", "only_candidate_right", "only_production_right"),
        *("sequence_accuracy", "sequence_accuracy_lower", "sequence_accuracy_upper"),
    }
    assert {"position_accuracy_3_upper", "confusion", "calibration_count"} <= set(of_all)
    assert not set(of_slices) & set(of_all)
