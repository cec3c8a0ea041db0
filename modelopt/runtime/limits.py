"""What a child process may use of memory and time, and the thread that ends a child that uses more."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from modelopt.core.thread_room import no_thread

OWN_FACTOR, FEED_FACTOR, FREE_BYTES = 8, 64, 2**30
"""A request may take so many times the bytes of the model, so many times the bytes of what it is fed, and this much.

The first two cover weights that kernels store in another layout, and activations with many more channels than the
input. A model of 200 bytes is then stopped at 1 GiB, whatever this machine has.
"""

_POLL_SECONDS = 0.05
_CALM_SECONDS = 0.5


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_bytes: Private resident memory; the child is killed above it.
        seconds: Wall time for one request (a load, a run); the child is killed after it.
        op_libraries: Shared libraries of custom operators that it may load: the user named them on the command line.
        request_bytes: What one request may take beyond what the child holds, without what it is fed; None where only
            `memory_bytes` counts: the user gave a limit, or no model is known yet.
        is_default: Whether `memory_bytes` is not the user's.
    """

    memory_bytes: int
    seconds: float
    op_libraries: tuple[str, ...] = ()
    request_bytes: int | None = None
    is_default: bool = False

    @classmethod
    def default(cls) -> Limits:
        """Four fifths of the memory that is available now, and ten minutes a request."""
        return cls(memory_bytes=int(psutil.virtual_memory().available * 0.8), seconds=600.0, is_default=True)

    def for_model(self, size_bytes: int, known_bytes: int = 0) -> Limits:
        """These limits where a model of this size runs; a limit of memory that the user gave stays as it is.

        Args:
            size_bytes: Of the model with its external data.
            known_bytes: Of the values whose shapes the model fixes: they count up to `FEED_FACTOR` times its size.
        """
        if not self.is_default:
            return self
        usual = OWN_FACTOR * size_bytes + FREE_BYTES
        allowed = max(usual, min(known_bytes, FEED_FACTOR * size_bytes))
        return dataclasses.replace(self, request_bytes=min(allowed, self.memory_bytes))

    def growth(self, fed_bytes: int) -> int | None:
        """What a request that is fed so many bytes may take beyond what the child holds; None: up to `memory_bytes`."""
        return None if self.request_bytes is None else self.request_bytes + FEED_FACTOR * fed_bytes


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
        self._ceiling = limits.memory_bytes
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, limits: Limits, growth: int | None) -> int:
        """Use these limits for the next request.

        Args:
            limits: The limits.
            growth: What the request may take beyond what the child holds now; None: up to the limit of memory.

        Returns:
            The private memory at which the child is ended, in bytes.
        """
        self._limits = limits
        self._ceiling = limits.memory_bytes
        if growth is not None:
            self._ceiling = min(self._ceiling, _private_bytes(self._pid) + growth)
        return self._ceiling

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + self._limits.seconds
        if self._thread is None:
            thread = threading.Thread(target=self._watch, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                raise no_thread("the limits of a child process") from None
            self._thread = thread  # only one that runs can be waited for
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
            elif _private_bytes(self._pid) > self._ceiling:
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


@contextlib.contextmanager
def capped(growth: int | None) -> Iterator[None]:
    """Let this process allocate only so much more for a while: what asks for more fails at once and is not killed.

    Only Linux counts all private memory under this limit; elsewhere `Watch` alone bounds it.

    Args:
        growth: In bytes; None leaves the limit as it is.
    """
    used = _data_bytes() if growth is not None else None
    if growth is None or used is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + growth
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if before[1] < 0 else min(wanted, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int | None:
    """The private memory that this process has asked for, whether it wrote to it or not; None where nothing says so."""
    if sys.platform != "linux":
        return None
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return None
