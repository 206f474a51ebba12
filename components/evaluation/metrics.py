"""Reads texts from the model's probabilities, and measures the readings: counts that can be added up, and figures made from them.

Uses only NumPy and SciPy. The served model reads with `read`. The Evaluator, the `evaluate` command and the report all take their
figures from here.
"""

import dataclasses
import math
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SMALLEST: Final = 2.0**-126  # the smallest normal float32; below it a float32 softmax gives 0, or a value that some processors treat as 0

CALIBRATION_BINS: Final = 15  # as in Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of successes, with the bounds of its interval. All three are NaN if nothing was counted."""

    value: float
    lower: float
    upper: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The figures of one set of examples.

    If the length varies, labels and readings are padded with the blank, which is the last class. The padding is not counted: only the
    examples whose label has a character at a position count for its `position_accuracy`. Otherwise the last positions would look right
    because most labels end before them. A character read after the end of the label makes the sequence wrong, and is in the last
    row of `confusion_matrix`. A missing character is in its last column. If both are blank, nothing is counted.

    `character_precision[c]` is the share of characters read as c that are c, `character_recall[c]` the share of characters c
    that are read as c. Both are NaN if there are no such characters.
    """

    example_count: int
    sequence_accuracy: Rate  # the whole text is right, and thus its length
    position_accuracy: tuple[Rate, ...]  # [max_length]; NaN if no label is that long
    position_count: Ints  # [max_length] examples whose label has a character there
    character_precision: Floats  # [number of characters], without the blank
    character_recall: Floats  # [number of characters]
    confusion_matrix: csr_array  # int64 [num_classes, num_classes] characters; rows are the truth, columns what was read
    expected_calibration_error: float
    calibration_count: Ints  # [CALIBRATION_BINS] examples in each bin of confidence
    calibration_confidence: Floats  # [CALIBRATION_BINS] their mean confidence, NaN for an empty bin
    calibration_accuracy: Floats  # [CALIBRATION_BINS] their full-sequence accuracy, NaN for an empty bin

    @property
    def character_accuracy(self) -> float:
        """The share of the characters of all labels that are read right, each at its position; NaN without characters."""
        right = sum(rate.value * count for rate, count in zip(self.position_accuracy, self.position_count.tolist(), strict=True) if count)
        total = int(self.position_count.sum())
        return right / total if total else math.nan


def wilson_interval(successes: int, trials: int, confidence: float) -> Rate:
    """Returns successes / trials with its score interval (Wilson 1927), as SciPy computes it.

    Unlike the normal interval, it stays within 0 and 1, and is valid for shares close to 1.

    Args:
      confidence: of the two-sided interval, above 0 and below 1, such as 0.95.
    """
    if trials == 0:
        return Rate(math.nan, math.nan, math.nan)
    from scipy.stats import binomtest  # here, because its import takes longer than everything else in the commands without TensorFlow

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    share = successes / trials
    # At 0 and 1 the bound is the share itself, but rounding would put it slightly on the wrong side.
    return Rate(share, min(share, float(interval.low)), max(share, float(interval.high)))


class ReadingCounts:
    """Counts of right and wrong readings. They are small for any number of examples, and can be merged in any order.

    Attributes:
      min_length: of a text.
      examples: the number of examples.
      sequences_right: the number of examples whose text is read without error.
      positions_seen: int64 [num_positions], the number of examples whose label has a character there.
      positions_right: int64 [num_positions], the number of examples whose character is read right there.
      confusion: int64 [num_classes, num_classes], sparse; rows are the truth, columns what was read. See Results.
      bin_examples: int64 [CALIBRATION_BINS], the number of examples by confidence.
      bin_right: int64 [CALIBRATION_BINS], the number of examples whose text is read without error, by confidence.
      bin_confidence: float64 [CALIBRATION_BINS], the sum of the confidences.
    """

    def __init__(self, num_positions: int, num_classes: int, min_length: int | None = None):
        """Starts with counts of 0.

        Args:
          num_positions: the length of the longest text.
          num_classes: the number of classes, including the blank if there is one.
          min_length: of a text. If it is below `num_positions`, the last class is the blank. None if every text has that length.
        """
        self.min_length = num_positions if min_length is None else min_length
        self.examples = 0
        self.sequences_right = 0
        self.positions_seen: Ints = np.zeros(num_positions, np.int64)
        self.positions_right: Ints = np.zeros(num_positions, np.int64)
        self.confusion = csr_array((num_classes, num_classes), dtype=np.int64)
        self.bin_examples: Ints = np.zeros(CALIBRATION_BINS, np.int64)
        self.bin_right: Ints = np.zeros(CALIBRATION_BINS, np.int64)
        self.bin_confidence: Floats = np.zeros(CALIBRATION_BINS, np.float64)

    def add(self, label_ids: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> None:
        """Counts N examples.

        Args:
          label_ids: int [N, num_positions], the true classes.
          probabilities: float [N, num_positions, num_classes].

        Raises:
          ValueError: the shapes do not fit each other or this object.
        """
        probabilities = np.asarray(probabilities)
        expected = (len(label_ids), len(self.positions_right), self.confusion.shape[0])
        if probabilities.shape != expected:
            raise ValueError(f"The probabilities have the shape {probabilities.shape}, not {expected}.")
        predicted_ids, chosen = read(probabilities, self.min_length)
        self.add_readings(label_ids, predicted_ids, chosen.prod(axis=-1))

    def add_readings(self, label_ids: npt.NDArray[np.integer], predicted_ids: npt.NDArray[np.integer], confidence: Floats) -> None:
        """Counts N examples that `read` has already read.

        Args:
          label_ids: int [N, num_positions], the true classes.
          predicted_ids: int [N, num_positions], the classes read.
          confidence: float64 [N], of the whole sequence.

        Raises:
          ValueError: the shapes do not fit each other or this object.
        """
        label_ids, predicted_ids = np.asarray(label_ids), np.asarray(predicted_ids)
        expected = (len(confidence), len(self.positions_right))
        if not label_ids.shape == predicted_ids.shape == expected:
            raise ValueError(f"The labels have the shape {label_ids.shape} and the readings {predicted_ids.shape}, not {expected}.")
        right = label_ids == predicted_ids
        sequence_right = right.all(axis=1)
        blank = self.confusion.shape[0] - 1 if self._has_blank else -1
        is_character = label_ids != blank
        is_padding = ~is_character & (predicted_ids == blank)
        # Bin m contains confidences in (m / bins, (m + 1) / bins]. The first also contains 0.
        bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        self.examples += len(label_ids)
        self.sequences_right += int(sequence_right.sum())
        self.positions_seen += is_character.sum(axis=0)
        self.positions_right += (right & is_character).sum(axis=0)
        cells = (label_ids[~is_padding], predicted_ids[~is_padding])
        self.confusion += csr_array((np.ones(len(cells[0]), np.int64), cells), shape=self.confusion.shape)
        self.bin_examples += np.bincount(bins, minlength=CALIBRATION_BINS)
        self.bin_right += np.bincount(bins[sequence_right], minlength=CALIBRATION_BINS)
        self.bin_confidence += np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)

    @property
    def _has_blank(self) -> bool:
        return self.min_length < len(self.positions_seen)

    def merge(self, other: "ReadingCounts") -> None:
        """Adds the counts of `other`, which has counted different examples."""
        self.examples += other.examples
        self.sequences_right += other.sequences_right
        self.positions_seen += other.positions_seen
        self.positions_right += other.positions_right
        self.confusion += other.confusion
        self.bin_examples += other.bin_examples
        self.bin_right += other.bin_right
        self.bin_confidence += other.bin_confidence

    def results(self, confidence: float) -> Results:
        """Returns the figures, with intervals of the given confidence (such as 0.95) around the accuracies.

        The expected calibration error is the mean over the examples of the distance between the accuracy and the mean confidence of their
        bin (Guo et al. 2017, equation 5). A reading is right if the whole sequence is.
        """
        characters = slice(self.confusion.shape[0] - self._has_blank)
        diagonal = self.confusion.diagonal()
        accuracy, mean_confidence = _divide(self.bin_right, self.bin_examples), _divide(self.bin_confidence, self.bin_examples)
        gap = np.nansum(np.abs(accuracy - mean_confidence) * self.bin_examples)
        return Results(
            example_count=self.examples,
            sequence_accuracy=wilson_interval(self.sequences_right, self.examples, confidence),
            position_accuracy=tuple(
                wilson_interval(right, seen, confidence)
                for right, seen in zip(self.positions_right.tolist(), self.positions_seen.tolist(), strict=True)
            ),
            position_count=self.positions_seen.copy(),
            character_precision=_divide(diagonal, self.confusion.sum(axis=0))[characters],
            character_recall=_divide(diagonal, self.confusion.sum(axis=1))[characters],
            confusion_matrix=self.confusion.copy(),
            expected_calibration_error=float(gap / self.examples) if self.examples else math.nan,
            calibration_count=self.bin_examples.copy(),
            calibration_confidence=mean_confidence,
            calibration_accuracy=accuracy,
        )


def read(probabilities: Any, min_length: int, ops: ModuleType = np) -> tuple[Any, Any]:
    """Reads the most probable text that the spec allows: first `min_length` or more characters, then blanks.

    The heads are independent, so the probability of a text is the product of those of its characters and of the blanks after them. At
    each position only the best character is possible. The sum of the logarithms shows the best length. Of equally probable lengths the
    shortest is chosen.

    Args:
      probabilities: float [..., positions, num_classes].
      min_length: of a text. If it is below the number of positions, the last class is the blank. Otherwise there is no blank.
      ops: numpy, or keras.ops for tensors, so that the served model reads with the same code.

    Returns:
      The classes read, int [..., positions], and their probabilities, float64 [..., positions]. The product of the probabilities over the
      positions is the confidence in the whole text.
    """
    probabilities = ops.array(probabilities, "float64")
    positions, blank = probabilities.shape[-2], probabilities.shape[-1] - 1
    if min_length == positions:
        return ops.argmax(probabilities, -1), ops.max(probabilities, -1)
    characters, blanks = probabilities[..., :blank], probabilities[..., blank]
    best = ops.max(characters, -1)
    # The log-probability that each character beyond `min_length` adds.
    gains = ops.log(ops.maximum(best, _SMALLEST)) - ops.log(ops.maximum(blanks, _SMALLEST))
    totals = ops.cumsum(gains[..., min_length:], -1)
    length = min_length + ops.where(ops.max(totals, -1) > 0, ops.argmax(totals, -1) + 1, 0)
    is_character = ops.arange(positions) < length[..., None]
    return ops.where(is_character, ops.argmax(characters, -1), blank), ops.where(is_character, best, blanks)


def _divide(numerator: npt.NDArray[np.number], denominator: Ints) -> Floats:
    """Returns the quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)
