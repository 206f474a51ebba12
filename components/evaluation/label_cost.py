"""What an accuracy costs in labels, from fits to very different numbers of pictures.

A power law holds only roughly over a factor of a hundred. So each answer follows from the fits up to the size at which it lies, of which
the nearest count most: see LearningCurve.
"""

from collections.abc import Sequence

from components.evaluation.learning_curve import Estimate, Fitted, LearningCurve


class LabelCost:
    """Accuracy by the number of labels, and labels by accuracy.

    Args:
      groups: at least one, each with the fits to about equally many pictures, the smallest fits first.

    Attributes:
      fewest, most: the mean number of pictures of the smallest and of the largest fits.
    """

    def __init__(self, groups: Sequence[Sequence[Fitted]]):
        self._groups = groups
        self._sizes = [sum(fit.fitted for fit in group) / len(group) for group in groups]
        self.fewest, self.most = round(self._sizes[0]), round(self._sizes[-1])
        self._curves: dict[int, LearningCurve] = {}

    @property
    def farthest(self) -> int:
        """The largest number of labels that `labels_for` returns."""
        return self._curve(len(self._groups) - 1).farthest

    def accuracy(self, labels: float) -> Estimate:
        """Returns the full-sequence accuracy, 0 to 1, of one fit to this many labels."""
        above = [place for place, size in enumerate(self._sizes) if size >= labels]
        return self._curve(above[0] if above else len(self._sizes) - 1).accuracy(max(1, round(labels)))

    def labels_for(self, accuracy: float) -> Estimate:
        """Returns the number of labels with which fits reach an accuracy, above 0 and below 1. Infinite above `farthest`."""
        reached = [place for place, group in enumerate(self._groups) if _accuracy(group) >= accuracy]
        return self._curve(reached[0] if reached else len(self._groups) - 1).pictures_for(accuracy)

    def _curve(self, place: int) -> LearningCurve:
        """Returns the curve of the fits up to a size."""
        if place not in self._curves:
            self._curves[place] = LearningCurve([fit for group in self._groups[: place + 1] for fit in group])
        return self._curves[place]


def _accuracy(group: Sequence[Fitted]) -> float:
    return 1 - sum(fit.misread for fit in group) / sum(fit.read for fit in group)
