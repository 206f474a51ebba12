"""Finds labels that are probably wrong: confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in
Dataset Labels", JAIR 2021, https://arxiv.org/abs/1911.00068). NumPy only.

A character is confidently read as a class if the probability of this class is at least the *threshold* of the class: its mean probability
over the characters that are labelled with it. So a class that the model finds hard needs less confidence. The *confident joint* counts, for
each labelled class, as which class the characters are confidently read. Its rows, scaled to the number of characters with that label,
estimate how many characters are labelled wrong. That many characters are suspect: those where the probability of another class exceeds that
of the label the most.

Three hundred labels of five characters from 19 classes have 342 pairs of classes, and perhaps nine wrong characters, so nearly every count
off the diagonal is zero or one. The estimates of all pairs are therefore added up before the characters are chosen. On 300 and on 600
labels of a public set, with planted mistakes, each of the six methods of the authors' package cleanlab 2.9 chose the same labels as this
module. It would be one more dependency for these few lines.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The mean of a threshold includes this many imaginary characters that have the mean probability of all classes. Three hundred labels of
# five characters from 36 classes have some classes with two or three characters, and the mean of so few would be left to chance.
_PRIOR: Final = 5.0


@dataclass(frozen=True)
class Findings:
    """What confident learning finds in N labels.

    Attributes:
      thresholds: float64 [num_classes], the probability from which a character counts as confidently read as a class; at most 1.
      joint: int64 [num_classes, num_classes], the confident joint over all heads: rows are the labels, columns the classes that are
        confidently read. A character that is not confidently read as any class is not counted.
      suspect: bool [N], whether any character of the label is suspect.
      score: float64 [N], the lowest probability of a labelled class over the heads: the lower, the more likely the label is wrong.
    """

    thresholds: Floats
    joint: Ints
    suspect: npt.NDArray[np.bool_]
    score: Floats

    @property
    def order(self) -> Ints:
        """The indices of the suspect labels, int64 [number of suspects], the label that is most likely wrong first."""
        found = np.flatnonzero(self.suspect)
        return found[np.argsort(self.score[found], kind="stable")]


def find(label_ids: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> Findings:
    """Looks for wrong labels.

    The characters of all heads (positions) are taken together, because the heads have the same classes, and a class has too few characters
    at one position for a threshold. A label is suspect if any of its characters is. Labels are ranked by their least probable character
    (Wang and Mueller, "Detecting Label Errors in Token Classification Data", 2022, https://arxiv.org/abs/2210.03920).

    Args:
      label_ids: int [N, heads], the classes of the labels.
      probabilities: float [N, heads, num_classes], calibrated, of models that were not fitted to these labels.

    Raises:
      ValueError: the shapes do not fit each other.
    """
    labels, given = np.asarray(label_ids, np.int64), np.asarray(probabilities, np.float64)
    if labels.shape != given.shape[:-1]:
        raise ValueError(f"The labels have the shape {labels.shape}, the probabilities {given.shape}.")
    own = np.take_along_axis(given, labels[..., np.newaxis], axis=-1)[..., 0]
    thresholds = _thresholds(labels, own, given.shape[-1])
    joint = _joint(labels, given, thresholds)
    others = given.copy()
    np.put_along_axis(others, labels[..., np.newaxis], -np.inf, axis=-1)
    margins = own - others.max(axis=-1)
    suspect = np.zeros(margins.shape, np.bool_)
    suspect.flat[np.argsort(margins, axis=None, kind="stable")[: _wrong(labels, joint)]] = True
    # A character is not suspect if its label is the most probable class, whatever the estimated number of wrong characters.
    return Findings(thresholds, joint, (suspect & (margins < 0)).any(axis=-1), own.min(axis=-1))


def _thresholds(labels: Ints, own: Floats, classes: int) -> Floats:
    """Returns the mean of `own`, the probabilities of the labelled classes, by class. For a rare class it is close to the mean of all."""
    counts = np.bincount(labels.ravel(), minlength=classes)
    sums = np.bincount(labels.ravel(), weights=own.ravel(), minlength=classes)
    return (sums + _PRIOR * own.mean()) / (counts + _PRIOR)


def _joint(labels: Ints, given: Floats, thresholds: Floats) -> Ints:
    """Returns the confident joint, see `Findings`."""
    # Of several classes above their thresholds, the most probable one counts as read.
    confident = np.where(given >= thresholds, given, -np.inf)
    is_confident = np.isfinite(confident).any(axis=-1)
    joint = np.zeros((given.shape[-1],) * 2, np.int64)
    np.add.at(joint, (labels[is_confident], confident.argmax(axis=-1)[is_confident]), 1)
    return joint


def _wrong(labels: Ints, joint: Ints) -> int:
    """Returns the estimated number of wrong characters."""
    counts = np.bincount(labels.ravel(), minlength=len(joint))
    confident = joint.sum(axis=1)
    wrong = confident - joint.diagonal()
    return round(float((counts * wrong / np.maximum(confident, 1)).sum()))
