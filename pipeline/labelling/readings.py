"""The newest reading of each picture of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Readings:
    """The newest reading of each of N pictures, from whichever model read it.

    Attributes:
      texts: the N texts; "" if no model has read the picture, or if the model cannot read it.
      confidences: float32 [N], the confidence of each reading, 0 to 1; NaN if no model has read the picture.
      versions: int64 [N], the version of the model that read each picture; 0 if no model has.
    """

    texts: list[str]
    confidences: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int64]

    @classmethod
    def none(cls, count: int) -> "Readings":
        """Returns the state of `count` pictures before the first model."""
        return cls([""] * count, np.full(count, np.nan, np.float32), np.zeros(count, np.int64))

    def note(self, version: int, found: Mapping[int, tuple[str, float]]) -> None:
        """Replaces readings.

        Args:
          version: of the model that read.
          found: by picture, its text and confidence, 0 to 1.
        """
        for number, (text, confidence) in found.items():
            self.texts[number], self.confidences[number], self.versions[number] = text, confidence, version
