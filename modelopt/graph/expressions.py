"""Regular expressions over names of nodes, in bounded time.

The expression may come from a recipe and the names from a model, both a stranger's: ``re:(a+)+b`` takes 2^n steps on a
name of n letters. Python's `re` looks for signals while it matches, so a timer can end it.
"""

from __future__ import annotations

import functools
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from modelopt.core.errors import InputError

MAX_SECONDS = 1.0
"""How long one name may take, and all names of one expression that take longer than a hundredth of it together. Usual
expressions take microseconds."""

_MAX_CHARACTERS = 10_000


class _TooSlow(Exception):
    """The timer ended a match."""


class Expression:
    """A regular expression that must match a whole name.

    Args:
        pattern: ``re:`` and the expression.

    Raises:
        InputError: It is not valid, or longer than 10,000 characters.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._slow_seconds = 0.0
        if len(pattern) > _MAX_CHARACTERS:
            raise InputError(f"a regular expression of {len(pattern)} characters", note=f"at most {_MAX_CHARACTERS}")
        try:
            self._compiled = re.compile(pattern.removeprefix("re:"))
        except (re.error, RecursionError, OverflowError, MemoryError) as error:
            raise InputError(f"'{pattern}' is not a regular expression", note=str(error)) from None

    def matches(self, name: str) -> bool:
        """Whether the whole name matches.

        Raises:
            InputError: That would take more than `MAX_SECONDS`. In a thread that is not the main one nothing ends it.
        """
        start = time.monotonic()
        try:
            with _timer(MAX_SECONDS):
                found = self._compiled.fullmatch(name) is not None
        except _TooSlow:
            self._slow_seconds = MAX_SECONDS
            found = False
        taken = time.monotonic() - start
        if taken > MAX_SECONDS / 100:
            self._slow_seconds += taken
        if self._slow_seconds > MAX_SECONDS:
            note = "it tries many ways to match: a repetition in a repetition does that, such as (a+)+"
            raise InputError(f"'{self._pattern}' takes too long to match names", note=note, hint="a glob: *name*")
        return found


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> Expression:
    """The expression of a pattern ``re:...``, made once.

    Raises:
        InputError: As `Expression`.
    """
    return Expression(pattern)


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """End what runs here with `_TooSlow` after so long; a timer that ran before goes on afterwards."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)
