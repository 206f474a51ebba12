"""How long a fit takes: measured in its first steps, said, and cut to the time that there is."""

import time
from typing import Final

import keras

from components.training.checkpoint import Progress
from components.training.schedule import WarmupCosine

_WARM_UP: Final = 5  # steps, of which the first takes as long as hundreds: TensorFlow builds its graph
_TIMED: Final = 20  # steps


class Pace(keras.callbacks.Callback):
    """Times the first steps of a fit, says how many minutes the rest will take, and shortens a fit that would take too many."""

    def __init__(self, progress: Progress, schedule: WarmupCosine, max_minutes: float | None):
        """Args:
        progress: of the fit; its number of epochs is lowered.
        schedule: of the fit's optimizer; its number of steps is lowered.
        max_minutes: how long the steps of all epochs may take, None for as long as they take. One epoch is fitted in any case.
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
        # What is taken up again keeps the length that it began with.
        if self._max_minutes and not progress.epoch and minutes_a_step * steps > self._max_minutes:
            progress.epochs = max(1, int(planned * self._max_minutes / (minutes_a_step * steps)))
            steps = steps * progress.epochs // planned
            self._schedule.steps.assign(float(steps))
        left = steps * (progress.epochs - progress.epoch) // progress.epochs - self._steps
        cut = f", {progress.epochs} epochs in place of {planned}" if progress.epochs < planned else ""
        progress.say(f"about {max(1, round(minutes_a_step * left))} min to go: {1000 * 60 * minutes_a_step:.0f} ms a step{cut}")
