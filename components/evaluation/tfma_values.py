"""The names of the figures of `metrics.py` in TFMA, and the conversion to and from them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_array

from components.evaluation.metrics import Rate, Results

EXAMPLE_COUNT: Final = "example_count"
SEQUENCE_ACCURACY: Final = "sequence_accuracy"
POSITION_ACCURACY: Final = "position_accuracy"  # with the suffix _1 for the first position, _2, …
ONLY_CANDIDATE: Final = "only_candidate_right"  # the number of pictures that only the candidate model reads without error
ONLY_PRODUCTION: Final = "only_production_right"  # likewise, of the production model
NUM_CLASSES: Final = "num_classes"
CONFUSION: Final = "confusion"  # int64 [cells, 3]: truth, reading and count of the cells that are not zero
GOLDEN_READINGS: Final = "golden_readings"  # int64 [pictures, 2]: digest, and whether the picture is read without error


def to_metrics(results: Results) -> dict[str, float | np.ndarray]:
    """Returns the figures under the names that TFMA uses."""
    values: dict[str, float | np.ndarray] = {EXAMPLE_COUNT: float(results.example_count)}
    values |= rate_values(SEQUENCE_ACCURACY, results.sequence_accuracy)
    for position, rate in enumerate(results.position_accuracy, start=1):
        values |= rate_values(f"{POSITION_ACCURACY}_{position}", rate)
    confusion = results.confusion_matrix.tocoo()
    return values | {
        NUM_CLASSES: float(confusion.shape[0]),
        "position_count": results.position_count,
        "character_precision": results.character_precision,
        "character_recall": results.character_recall,
        CONFUSION: np.stack((confusion.row, confusion.col, confusion.data), axis=1).astype(np.int64),
        "expected_calibration_error": results.expected_calibration_error,
        "calibration_count": results.calibration_count,
        "calibration_confidence": results.calibration_confidence,
        "calibration_accuracy": results.calibration_accuracy,
    }


def from_metrics(values: Mapping[str, Any]) -> Results:
    """Returns the figures that `to_metrics` was given."""
    num_classes = int(values[NUM_CLASSES])
    truth, reading, count = values[CONFUSION].astype(np.int64).T
    num_positions = sum(name.startswith(POSITION_ACCURACY) and name.endswith("_upper") for name in values)
    return Results(
        example_count=int(values[EXAMPLE_COUNT]),
        sequence_accuracy=rate_from(values, SEQUENCE_ACCURACY),
        position_accuracy=tuple(rate_from(values, f"{POSITION_ACCURACY}_{position}") for position in range(1, num_positions + 1)),
        position_count=values["position_count"],
        character_precision=values["character_precision"],
        character_recall=values["character_recall"],
        confusion_matrix=csr_array((count, (truth, reading)), shape=(num_classes, num_classes)),
        expected_calibration_error=values["expected_calibration_error"],
        calibration_count=values["calibration_count"],
        calibration_confidence=values["calibration_confidence"],
        calibration_accuracy=values["calibration_accuracy"],
    )


def rate_from(values: Mapping[str, Any], name: str) -> Rate:
    """Returns the rate stored under this name, with its bounds."""
    return Rate(values[name], values[f"{name}_lower"], values[f"{name}_upper"])


def rate_values(name: str, rate: Rate) -> dict[str, float]:
    return {name: rate.value, f"{name}_lower": rate.lower, f"{name}_upper": rate.upper}
