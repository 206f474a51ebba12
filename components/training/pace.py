"""Measures the speed of a fit in its first steps, prints the remaining time, and shortens the fit to a time limit."""

import time
from typing import Final

import keras

from components.training.checkpoint import Progress
from components.training.schedule import WarmupCosine

_WARM_UP: Final = 5  # steps; the first takes as long as hundreds, because TensorFlow builds its graph
_TIMED: Final = 20  # steps


class Pace(keras.callbacks.Callback):
    """Times the first steps of a fit, prints how many minutes the rest will take, and shortens a fit that would take too long."""

    def __init__(self, progress: Progress, schedule: WarmupCosine, max_minutes: float | None):
        """Args:
        progress: of the fit. Its number of epochs may be lowered.
        schedule: of the fit's optimizer. Its number of steps may be lowered.
        max_minutes: the limit for the steps of all epochs, None for no limit. At least one epoch is fitted.
        """
        super().__init__()
        self._progress = progress
        self._schedule = schedule
        self._max_minutes = max_minutes
        self._steps = 0
        self._started = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Called after each step."""
        self._steps += 1
        if self._steps == _WARM_UP:
            self._started = time.monotonic()
        elif self._steps == _WARM_UP + _TIMED:
            self._decide((time.monotonic() - self._started) / _TIMED / 60)

    def _decide(self, minutes_a_step: float) -> None:
        progress, steps = self._progress, int(self._schedule.steps.numpy())
        planned = progress.epochs
        # A resumed fit keeps its original length.
        if self._max_minutes and not progress.epoch and minutes_a_step * steps > self._max_minutes:
            progress.epochs = max(1, int(planned * self._max_minutes / (minutes_a_step * steps)))
            steps = steps * progress.epochs // planned
            self._schedule.steps.assign(float(steps))
        left = steps * (progress.epochs - progress.epoch) // progress.epochs - self._steps
        cut = f", {progress.epochs} epochs instead of {planned}" if progress.epochs < planned else ""
        progress.say(f"about {max(1, round(minutes_a_step * left))} min left: {1000 * 60 * minutes_a_step:.0f} ms per step{cut}")
