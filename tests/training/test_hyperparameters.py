import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.training.checkpoint import Progress
from components.training.hyperparameters import FitLength, Hyperparameters, repeats
from components.training.pace import Pace
from components.training.schedule import WarmupCosine, learning_rate_schedule


class Talking(Progress):
    """Collects the lines that are printed."""

    def __init__(self) -> None:
        super().__init__(10, None, chooses=False)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def parameters(**changes) -> Hyperparameters:
    return Hyperparameters(**changes)


@given(st.integers(1, 10_000_000), st.integers(1, 512))
def test_more_pictures_get_fewer_passes_and_no_fewer_steps(count, batch_size):
    few, more = (parameters(batch_size=batch_size).fit_length(number) for number in (count, 2 * count))
    passes = [found.epochs * found.passes for found in (few, more)]
    assert passes[1] <= (1.3 if count >= 20 else 1.51) * passes[0], "but for the rounding to whole epochs"
    assert 2 <= passes[0] <= 600
    assert few.epochs >= 1
    steps = [found.steps for found in (few, more)]
    assert steps[1] >= steps[0] / 1.3


@pytest.mark.parametrize(("count", "passes", "epochs"), [(20_000, 1, 8), (250, 20, 6), (60_000, 1, 4), (1_000_000, 1, 3)])
def test_the_length_of_a_fit_follows_from_the_number_of_pictures(count, passes, epochs):
    found = parameters().fit_length(count)
    assert (found.passes, found.epochs) == (passes, epochs)


@given(st.integers(20, 100_000), st.integers(1, 100_000))
def test_drawn_pictures_do_not_make_a_fit_see_the_labelled_ones_less(labelled, drawn):
    often = repeats(labelled, drawn)
    alone, together = (parameters().fit_length(count) for count in (labelled, often * labelled + drawn))
    assert often * together.epochs * together.passes >= 0.5 * alone.epochs * alone.passes
    assert often == 1 or often * labelled <= 2 * (labelled + drawn), "and they do not become most of what it sees"


@pytest.mark.parametrize(
    ("labelled", "drawn", "expected"), [(50, 20_000, 36), (300, 20_000, 13), (20_000, 20_000, 2), (0, 9, 1), (9, 0, 1)]
)
def test_how_often_a_labelled_picture_occurs_beside_drawn_ones(labelled, drawn, expected):
    assert repeats(labelled, drawn) == expected


def test_a_configured_number_of_epochs_is_kept():
    assert parameters(epochs=160, batch_size=4).fit_length(10) == FitLength(epochs=160, passes=1, epoch_steps=3)


def test_the_learning_rate_follows_the_schedule_of_keras():
    ours = learning_rate_schedule(parameters(learning_rate=0.01, warmup=0.2), 100)
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 80, warmup_target=0.01, warmup_steps=20)
    steps = range(0, 110, 3)
    np.testing.assert_allclose([float(ours(step)) for step in steps], [float(theirs(step)) for step in steps], atol=1e-8)
    assert float(WarmupCosine(0.01, 0.0, 10)(0)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("max_minutes", "epoch", "epochs", "said"),
    [
        (None, 0, 10, "about 20 min left: 1200 ms per step"),
        (30.0, 0, 10, "about 20 min left: 1200 ms per step"),
        (5.0, 0, 2, "about 4 min left: 1200 ms per step, 2 epochs instead of 10"),
        (0.1, 0, 1, "about 2 min left: 1200 ms per step, 1 epochs instead of 10"),
        (5.0, 5, 10, "about 10 min left: 1200 ms per step"),
    ],
)
def test_a_fit_estimates_its_time_and_keeps_to_the_limit(monkeypatch, max_minutes, epoch, epochs, said):
    clock = iter([100.0, 100.0 + 20 * 1.2])
    monkeypatch.setattr("components.training.pace.time.monotonic", lambda: next(clock))
    progress = Talking()
    progress.epoch = epoch
    schedule = WarmupCosine(0.01, 0.1, 1000)
    paced = Pace(progress, schedule, max_minutes)
    for batch in range(40):
        paced.on_train_batch_end(batch)
    assert progress.lines == [said]
    assert progress.epochs == epochs
    assert float(schedule.steps) == 100 * epochs
