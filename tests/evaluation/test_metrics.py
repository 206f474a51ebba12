import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from components.evaluation.metrics import CALIBRATION_BINS, ReadingCounts, read, wilson_interval
from tests.support.readings import heads


@st.composite
def readings(draw):
    """Draws labels, int [N, L], and probabilities, float64 [N, L, C]."""
    examples, positions, classes = draw(st.integers(1, 40)), draw(st.integers(1, 5)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, classes, (examples, positions))
    logits = rng.normal(scale=draw(st.sampled_from([0.1, 1, 10])), size=(examples, positions, classes))
    np.put_along_axis(logits, labels[..., None], logits.max(axis=-1, keepdims=True) + rng.normal(size=(examples, positions, 1)), -1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return labels, probabilities


def count(labels, probabilities):
    counts = ReadingCounts(*probabilities.shape[1:])
    counts.add(labels, probabilities)
    return counts


@given(readings())
def test_figures_agree_with_their_definitions(batch):
    labels, probabilities = batch
    results = count(labels, probabilities).results(0.95)
    read = [[max(range(len(p)), key=p.__getitem__) for p in example] for example in probabilities.tolist()]
    truth, classes = labels.tolist(), probabilities.shape[-1]
    pairs = [pair for t, r in zip(truth, read, strict=True) for pair in zip(t, r, strict=True)]

    assert results.example_count == len(truth)
    assert results.sequence_accuracy.value == sum(t == r for t, r in zip(truth, read, strict=True)) / len(truth)
    for position, rate in enumerate(results.position_accuracy):
        assert rate.value == sum(t[position] == r[position] for t, r in zip(truth, read, strict=True)) / len(truth)
        assert 0 <= rate.lower <= rate.value <= rate.upper <= 1
    for a in range(classes):
        for b in range(classes):
            assert results.confusion_matrix[a, b] == pairs.count((a, b))
        said, was, both = sum(r == a for _, r in pairs), sum(t == a for t, _ in pairs), pairs.count((a, a))
        np.testing.assert_equal(results.character_precision[a], both / said if said else math.nan)
        np.testing.assert_equal(results.character_recall[a], both / was if was else math.nan)


@given(readings())
def test_calibration_agrees_with_its_definition(batch):
    labels, probabilities = batch
    results = count(labels, probabilities).results(0.95)
    confidence = [math.prod(max(position) for position in example) for example in probabilities.tolist()]
    right = (probabilities.argmax(-1) == labels).all(-1).tolist()
    error = 0.0
    for m in range(CALIBRATION_BINS):
        inside = [i for i, c in enumerate(confidence) if m / CALIBRATION_BINS < c <= (m + 1) / CALIBRATION_BINS]
        assert results.calibration_count[m] == len(inside)
        if inside:
            accuracy, mean = sum(right[i] for i in inside) / len(inside), sum(confidence[i] for i in inside) / len(inside)
            assert results.calibration_accuracy[m] == pytest.approx(accuracy)
            assert results.calibration_confidence[m] == pytest.approx(mean)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
        else:
            assert math.isnan(results.calibration_accuracy[m])
    assert results.expected_calibration_error == pytest.approx(error)


@given(readings(), st.integers(0, 40))
def test_merged_counts_equal_the_counts_of_the_whole(batch, cut):
    labels, probabilities = batch
    left, right = count(labels[:cut], probabilities[:cut]), count(labels[cut:], probabilities[cut:])
    right.merge(left)
    whole = count(labels, probabilities)
    for name, value in vars(whole).items():
        found = getattr(right, name)
        np.testing.assert_allclose(*(item.toarray() if isinstance(item, csr_array) else item for item in (found, value)))


def test_counts_of_a_large_charset_are_small():
    """Beam sends the counts between workers, and a dense matrix of 3,500 characters has 98 MB."""
    counts = ReadingCounts(4, 3500)
    truth = np.random.default_rng(1).integers(0, 3500, (2000, 4))
    counts.add_readings(truth, np.roll(truth, 1, axis=0), np.ones(2000))
    assert len(pickle.dumps(counts)) < 300_000
    assert counts.results(0.95).confusion_matrix.sum() == truth.size


def test_extreme_confidences_have_a_bin():
    counts = ReadingCounts(1, 2)
    counts.add_readings(np.array([[0], [0]]), np.array([[0], [1]]), np.array([1 + 1e-7, 0.0]))  # float32 softmax can exceed 1
    assert counts.bin_examples[[0, -1]].tolist() == [1, 1]


def test_empty_counts_have_no_figures():
    results = ReadingCounts(2, 3).results(0.95)
    assert results.example_count == 0
    assert math.isnan(results.sequence_accuracy.value)
    assert math.isnan(results.expected_calibration_error)
    assert np.isnan(results.character_recall).all()


def test_wilson_interval_known_values():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for successes, trials, lower, upper in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        rate = wilson_interval(successes, trials, 0.95)
        assert rate.value == successes / trials
        assert (rate.lower, rate.upper) == (pytest.approx(lower, abs=5e-5), pytest.approx(upper, abs=5e-5))
    assert wilson_interval(7, 7, 0.95).upper == 1
    assert wilson_interval(5, 10, 0.99).lower < wilson_interval(5, 10, 0.9).lower


@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 1, 5), (2, 2, 5)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        ReadingCounts(2, 5).add(np.zeros((3, 2), int), np.zeros(shape))


@given(heads())
def test_the_reading_is_the_most_probable_text_of_the_spec(case):
    probabilities, min_length = case
    _, positions, classes = probabilities.shape
    blank = classes - 1
    ids, chosen = read(probabilities, min_length)
    if min_length == positions:
        allowed = list(itertools.product(range(classes), repeat=positions))
    else:
        allowed = [
            (*text, *[blank] * (positions - length))
            for length in range(min_length, positions + 1)
            for text in itertools.product(range(blank), repeat=length)
        ]
    for heads_of_one, reading, of_chosen in zip(probabilities.tolist(), ids.tolist(), chosen.tolist(), strict=True):
        assert tuple(reading) in allowed
        assert of_chosen == [head[class_id] for head, class_id in zip(heads_of_one, reading, strict=True)]
        best = max(math.prod(head[i] for head, i in zip(heads_of_one, candidate, strict=True)) for candidate in allowed)
        assert math.prod(of_chosen) >= best * (1 - 1e-9)


def test_a_gap_is_filled_or_the_text_ends_before_it():
    # Classes A, B and the blank: the most probable class of each head would give "A, blank, B".
    filled, ended = [[0.9, 0.05, 0.05], [0.4, 0.1, 0.5], [0.1, 0.8, 0.1]], [[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.1, 0.5, 0.4]]
    ids, chosen = read(np.array([filled, ended]), 1)
    assert ids.tolist() == [[0, 0, 1], [0, 2, 2]]
    np.testing.assert_allclose(chosen, [[0.9, 0.4, 0.8], [0.9, 0.8, 0.4]])
    # A text below the minimum length is not read.
    assert read(np.array([ended]), 2)[0].tolist() == [[0, 0, 1]]


def test_padding_is_not_counted():
    counts = ReadingCounts(3, 3, min_length=1)  # A, B and the blank
    truth = np.array([[0, 2, 2], [0, 1, 2], [1, 1, 1], [1, 2, 2]])
    readings = np.array([[0, 2, 2], [0, 2, 2], [1, 0, 1], [1, 0, 2]])  # right, one missing, one wrong, one too many
    counts.add_readings(truth, readings, np.full(4, 0.9))
    results = counts.results(0.95)
    assert results.sequence_accuracy.value == 1 / 4
    assert results.position_count.tolist() == [4, 2, 1]
    assert [rate.value for rate in results.position_accuracy] == [1, 0, 1]
    assert results.character_accuracy == 5 / 7
    # A missing character is in the last column, an extra character in the last row; blank read as blank is not counted.
    assert results.confusion_matrix.toarray().tolist() == [[2, 0, 0], [1, 3, 1], [1, 0, 0]]
    assert results.character_precision.tolist() == [2 / 4, 1]
    assert results.character_recall.tolist() == [1, 3 / 5]


def test_a_position_that_no_text_reaches_has_no_accuracy():
    counts = ReadingCounts(2, 3, min_length=1)
    counts.add_readings(np.array([[0, 2]]), np.array([[0, 2]]), np.array([0.9]))
    results = counts.results(0.95)
    assert (results.position_count.tolist(), results.character_accuracy) == ([1, 0], 1.0)
    assert math.isnan(results.position_accuracy[1].value)
