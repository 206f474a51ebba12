import numpy as np
import pytest

from components.evaluation.metrics import ReadingCounts
from pipeline.reporting.figures import FIGURES


def texts(wrong: int, count: int) -> dict[str, str]:
    """The texts of all figures, for a model that misreads so many of `count` characters."""
    counts = ReadingCounts(1, 2)
    labels = np.zeros((count, 1), np.int64)
    readings = np.arange(count)[:, np.newaxis] < wrong
    counts.add(labels, np.stack([~readings, readings], axis=-1).astype(np.float64))
    return {figure.key: figure.text(counts.results(0.95)) for figure in FIGURES}


@pytest.mark.parametrize(("wrong", "count", "text"), [(0, 9, "100.00 %"), (1, 4, "75.00 %"), (1, 100_000, "99.99 %"), (0, 0, "–")])
def test_character_accuracy_is_below_100_percent_if_anything_is_wrong(wrong: int, count: int, text: str) -> None:
    assert texts(wrong, count)["character_accuracy"] == text


def test_every_figure_has_a_text() -> None:
    assert all(texts(1, 10).values())
    assert len(texts(1, 10)) == len(FIGURES)
