"""Confident learning on labels with planted mistakes, and with the probabilities of readers whose quality is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from components.evaluation.confident_learning import find


def reader(rng: np.random.Generator, truth: np.ndarray, classes: int, accuracy: float, sureness: float = 6.0) -> np.ndarray:
    """Returns calibrated probabilities [N, heads, classes] of a reader that reads this share of the characters right.

    A character that it misreads gets two likely classes, as with look-alikes; the truth is the less likely one.
    """
    logits = rng.normal(0, 0.5, (*truth.shape, classes))
    np.put_along_axis(logits, truth[..., None], sureness, axis=-1)
    missed = rng.random(truth.shape) > accuracy
    other = (truth + rng.integers(1, classes, truth.shape)) % classes
    unsure = logits.copy()
    np.put_along_axis(unsure, other[..., None], sureness + 0.5, axis=-1)
    return softmax(np.where(missed[..., None], unsure, logits), axis=-1)


def planted(rng: np.random.Generator, truth: np.ndarray, classes: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels with one wrong character in a share of them, and which ones are wrong."""
    labels, wrong = truth.copy(), rng.random(len(truth)) < share
    heads = rng.integers(truth.shape[1], size=len(truth))
    rows = np.flatnonzero(wrong)
    labels[rows, heads[rows]] = (truth[rows, heads[rows]] + rng.integers(1, classes, len(rows))) % classes
    return labels, wrong


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 36), st.integers(1, 6), st.floats(0.03, 0.1), st.floats(0.98, 1.0))
def test_planted_mistakes_are_found(seed: int, classes: int, heads: int, share: float, accuracy: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (10_000, heads))
    labels, wrong = planted(rng, truth, classes, share)
    found = find(labels, reader(rng, truth, classes, accuracy))
    assert found.suspect[wrong].mean() >= 0.85
    assert wrong[found.suspect].mean() >= 0.8
    assert (np.diff(found.score[found.order]) >= 0).all()
    assert sorted(found.order) == np.flatnonzero(found.suspect).tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 36), st.floats(0.9, 1.0))
def test_right_labels_are_not_suspect(seed: int, classes: int, accuracy: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (300, 4))
    assert find(truth, reader(rng, truth, classes, accuracy)).suspect.mean() < 0.02


def test_thresholds_and_joint_are_those_of_the_paper() -> None:
    """By hand: the mean probability of each labelled class, and for each label the class that is confidently read."""
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.45, 0.55]] * 1000)[:, None]
    labels = np.array([0, 0, 0, 1, 1] * 1000)[:, None]
    found = find(labels, probabilities)
    assert found.thresholds == pytest.approx([(0.9 + 0.7 + 0.1) / 3, (0.8 + 0.55) / 2], abs=1e-3)
    # The last one reaches neither threshold, so it is not counted.
    assert found.joint.tolist() == [[2000, 1000], [0, 1000]]
    assert found.suspect.tolist() == [False, False, True, False, False] * 1000


def test_a_rare_class_is_not_suspect_because_it_is_rare() -> None:
    """With its own mean alone, the class of one character that the reader has never seen would be confidently read everywhere."""
    probabilities = np.full((400, 1, 3), 0.005)
    labels = np.repeat([0, 1], 200)[:, None]
    np.put_along_axis(probabilities, labels[..., None], 0.99, axis=-1)
    labels[0] = 2
    assert find(labels, probabilities).order.tolist() == [0]


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"The labels have the shape \(3, 2\), the probabilities \(3, 4, 5\)"):
        find(np.zeros((3, 2), int), np.zeros((3, 4, 5)))
