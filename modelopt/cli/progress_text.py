"""How far long work is, in one line: the part of the work, its stage, and about how long that still takes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TextIO

from modelopt.core.printable import printable
from modelopt.core.progress import SECONDS

QUIET_SECONDS = 15.0
"""Off a terminal a line is printed when nothing was for so long."""

_KNOWN_SECONDS = 2.0
"""What a stage still takes is told once it has taken this long."""


class ProgressText:
    """Turns calls of a `Progress` into one line.

    A call without a total begins a part of the work, such as a trial; calls with one are stages of it.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._part, self._stage = "", ""
        self._done, self._total = 0, 0
        self._began = clock()

    def update(self, what: str, done: int, total: int | None) -> None:
        """Take in a call."""
        if total is None:
            self._part, self._stage = what, ""
            return
        if what != self._stage or done < self._done:
            self._began = self._clock()
        self._stage, self._done, self._total = what, done, total

    @property
    def share(self) -> tuple[int, int]:
        """How much of the stage is done, and how much it is in all."""
        return self._done, self._total

    @property
    def part(self) -> str:
        """The part of the work and its stage, without how far it is."""
        return " · ".join(filter(None, (self._part, self._stage)))

    def line(self) -> str:
        """The line."""
        if not self._stage:
            return printable(self._part)
        scale = SECONDS.get(self._stage)
        if scale is not None:
            how_far = f"{self._stage} {self._done * scale:.1f} of at most {self._total * scale:.0f} s"
        else:
            how_far = (
                f"{self._stage} {min(self._done + 1, self._total)} of {self._total}" if self._total > 1 else self._stage
            )
        return printable(" · ".join(filter(None, (self._part, how_far, self._left(scale)))))

    def _left(self, scale: float | None) -> str:
        elapsed = self._clock() - self._began
        if scale is not None or not 0 < self._done < self._total or elapsed < _KNOWN_SECONDS:
            return ""
        return f"about {elapsed / self._done * (self._total - self._done):.0f} s left"


class ProgressLines:
    """Prints lines off a terminal: one whenever nothing was printed for `QUIET_SECONDS`, or each stage.

    Args:
        stream: Where to.
        every_stage: Print the beginning of each stage too.
    """

    def __init__(self, stream: TextIO, *, every_stage: bool) -> None:
        self._text = ProgressText()
        self._stream = stream
        self._every_stage = every_stage
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._began = time.monotonic()

    def __enter__(self) -> ProgressLines:
        with contextlib.suppress(RuntimeError):  # no room for a thread: then only calls print
            threading.Thread(target=self._repeat, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()

    def update(self, what: str, done: int, total: int | None) -> None:
        """Take in a call of a `Progress`."""
        with self._lock:
            self._text.update(what, done, total)
            if self._every_stage and self._text.part not in self._said:
                self._said.add(self._text.part)
                self._print(printable(self._text.part))

    def _repeat(self) -> None:
        """Print where the work is, even while it makes no call."""
        while not self._ended.wait(1.0):
            with self._lock:
                if time.monotonic() - self._last >= QUIET_SECONDS and not self._ended.is_set():
                    self._print(f"{self._text.line() or 'starting'} ({time.monotonic() - self._began:.0f} s)")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"modelopt: {text}", file=self._stream, flush=True)
