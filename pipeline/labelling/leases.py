"""Which picture is shown in which window, so that two windows never show the same one."""

import time
from collections.abc import Callable
from typing import Final

# A lease ends after this time without a request. It is long, because browsers let a window in the background send one only once a minute.
_SECONDS: Final = 180.0


class Leases:
    """Gives each window one picture at a time. A lease ends when its window is closed, or has sent no request for three minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """
        Args:
          clock: returns the time in seconds.
        """
        self._clock = clock
        self._pictures: dict[str, int] = {}
        self._seen: dict[str, float] = {}

    def touch(self, window: str) -> None:
        """Notes that a window has sent a request, so that its lease goes on."""
        self._seen[window] = self._clock()

    def of(self, window: str) -> int | None:
        """Returns the picture that a window shows; None if it has no lease."""
        self._expire()
        return self._pictures.get(window)

    def take(self, window: str, picture: int) -> bool:
        """Gives a window the lease of a picture, in place of its earlier lease. Returns False if another window has the picture."""
        if picture in self.held_by_others(window):
            return False
        self.touch(window)
        self._pictures[window] = picture
        return True

    def release(self, window: str) -> None:
        """Ends the lease of a window that stays open."""
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
