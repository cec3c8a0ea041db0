"""How long a search may go on before it ends with the best that it has found."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Gives seconds from some fixed time on."""


class TimeBudget:
    """The time of a search, from when this is made.

    Args:
        seconds: How long.
        clock: Says what time it is.
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._started = clock()

    @property
    def spent(self) -> float:
        """The seconds since it was made."""
        return self._clock() - self._started

    def is_over(self, share: float = 1.0) -> bool:
        """Whether this share of it is spent."""
        return self.spent >= share * self.seconds


def time_left(spent: float, done: int, total: int, most: float) -> str:
    """How long equal steps will take, as a clause; nothing before the first is done.

    Args:
        spent: The seconds that `done` steps took.
        done: How many are done.
        total: How many there are.
        most: After so many seconds they end in any case.
    """
    return f", about {max(min(spent / done * (total - done), most), 0):.0f} s left" if done else ""
