"""Which picture is shown in which window, so that two windows never show the same one."""

import time
from collections.abc import Callable
from typing import Final

_SECONDS: Final = 180.0  # browsers wake windows in the background once a minute


class Leases:
    """Gives each window one picture at a time. A lease ends when its window leaves, or gives no sign of life for three minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """
        Args:
          clock: returns the time in seconds.
        """
        self._clock = clock
        self._pictures: dict[str, int] = {}
        self._seen: dict[str, float] = {}

    def touch(self, window: str) -> None:
        """Notes a sign of life of a window."""
        self._seen[window] = self._clock()

    def of(self, window: str) -> int | None:
        """Returns the picture that a window shows; None if it has no lease."""
        self._expire()
        return self._pictures.get(window)

    def take(self, window: str, picture: int) -> bool:
        """Gives a picture to a window, in place of its last one. Returns False if another window has it."""
        if picture in self.held_by_others(window):
            return False
        self.touch(window)
        self._pictures[window] = picture
        return True

    def release(self, window: str) -> None:
        """Ends the lease of a window that goes on with another picture."""
        self._pictures.pop(window, None)

    def leave(self, window: str) -> None:
        """Forgets a window that was closed."""
        self._pictures.pop(window, None)
        self._seen.pop(window, None)

    def held_by_others(self, window: str) -> set[int]:
        """Returns the pictures that other windows show."""
        self._expire()
        return {picture for other, picture in self._pictures.items() if other != window}

    def _expire(self) -> None:
        now = self._clock()
        for window in [window for window, seen in self._seen.items() if now - seen > _SECONDS]:
            self.leave(window)
