"""What a child process may use of memory and time, and the thread that ends a child that uses more."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import psutil

_POLL_SECONDS = 0.05
_CALM_SECONDS = 0.5


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_bytes: Private resident memory; the child is killed above it.
        seconds: Wall time for one request (a load, a run); the child is killed after it.
        op_libraries: Shared libraries of custom operators that it may load: the user named them on the command line.
    """

    memory_bytes: int
    seconds: float
    op_libraries: tuple[str, ...] = ()

    @classmethod
    def default(cls) -> Limits:
        """Four fifths of the memory that is available now, and ten minutes a request."""
        return cls(memory_bytes=int(psutil.virtual_memory().available * 0.8), seconds=600.0)


class Watch:
    """Kills a child that exceeds its limits while a request is in flight; a context manager around each request.

    One thread serves all requests: starting one takes milliseconds while the child keeps every core busy. It looks by
    the clock and is not woken by a request: waking it would take a core from the child at the start of every timed run.

    Attributes:
        verdict: ``timeout`` or ``memory`` once the child was killed for it, else None.
        calm: Whether to look less often, because every look takes a core from a child that is timed.
    """

    def __init__(self, pid: int, kill: Callable[[], None], limits: Limits) -> None:
        self.verdict: str | None = None
        self.calm = False
        self._pid, self._kill, self._limits = pid, kill, limits
        self._deadline = math.inf
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + self._limits.seconds
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._deadline = math.inf

    def close(self) -> None:
        """End the thread; it must not be called from it."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(_CALM_SECONDS if self.calm else _POLL_SECONDS):
            deadline = self._deadline
            if deadline == math.inf:
                continue
            if time.monotonic() > deadline:
                self.verdict = "timeout"
            elif _private_bytes(self._pid) > self._limits.memory_bytes:
                self.verdict = "memory"
            if self.verdict:
                self._kill()
                return


def _private_bytes(pid: int) -> int:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))  # mapped weight files are not the child's own
