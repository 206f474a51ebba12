"""What models read in the pictures of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Readings:
    """What models read in the pictures of a folder.

    Attributes:
      texts: [N] the newest reading; "" if there is none.
      confidences: float32 [N] of these readings, 0 to 1; NaN if there is none.
      versions: int64 [N] the models that read; 0 if there is none.
    """

    texts: list[str]
    confidences: npt.NDArray[np.float32]
    versions: npt.NDArray[np.int64]

    @classmethod
    def none(cls, count: int) -> "Readings":
        """Returns the state before the first model."""
        return cls([""] * count, np.full(count, np.nan, np.float32), np.zeros(count, np.int64))

    def note(self, version: int, found: Mapping[int, tuple[str, float]]) -> None:
        """Stores the text and the confidence that a model read, by picture."""
        for number, (text, confidence) in found.items():
            self.texts[number], self.confidences[number], self.versions[number] = text, confidence, version
