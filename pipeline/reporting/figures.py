"""Figures of a model that are one number each. The screen, the JSON output and the report show all of them.

To add one, write a function from Results to a number, in a module of its own if it is long, and list it in FIGURES.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from components.evaluation.metrics import Results
from pipeline.reporting.filters import percent


@dataclass(frozen=True)
class Figure:
    """A number that follows from the results.

    Attributes:
      key: its name in JSON.
      name: its name for people.
      note: what it says, in a few words.
      compute: its value; NaN without examples.
      format: writes the value as people read it.
    """

    key: str
    name: str
    note: str
    compute: Callable[[Results], float]
    format: Callable[[float], str]

    def text(self, results: Results) -> str:
        """Returns the value as people read it."""
        value = self.compute(results)
        return "–" if math.isnan(value) else self.format(value)


def _percent(share: float) -> str:
    return percent(share, 2).replace("\N{NO-BREAK SPACE}", " ")


FIGURES: Final = (
    Figure(
        "character_accuracy",
        "character accuracy",
        "the share of the characters that are read correctly",
        lambda results: results.character_accuracy,
        _percent,
    ),
    Figure(
        "expected_calibration_error",
        "expected calibration error",
        "0 means that confidence matches accuracy",
        lambda results: results.expected_calibration_error,
        "{:.4f}".format,
    ),
)
