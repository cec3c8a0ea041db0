"""Calibration in the child: it runs samples and counts values, so that only the counts cross the pipe."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil

from modelopt.calibration.histogram import Collector

Feeds = dict[str, np.ndarray]


class Observing:
    """Runs samples on some threads at once, and counts the values of each output.

    While one thread counts, another runs a sample: counting itself is not parallel. Collectors do not depend on the
    order of what they count, so the result is the same whichever thread comes first.

    Args:
        outputs: By key, the output to count.
        bins: See `Collector`.
        threads: How many samples are run at once, where memory allows it.
        memory_bytes: What this process may use. The first sample runs alone and shows what each one needs.
        run: Runs one sample and returns those outputs; called on the threads.
    """

    def __init__(
        self,
        outputs: Mapping[str, str],
        bins: int,
        threads: int,
        memory_bytes: int,
        run: Callable[[Sequence[str], Feeds], list[object]],
    ) -> None:
        self._outputs = tuple(outputs.values())
        self._keys = tuple(outputs)
        self.collectors = {key: Collector(bins) for key in outputs}
        self.other: dict[str, str] = {}
        self.samples = 0
        self._run = run
        self._locks = {key: threading.Lock() for key in outputs}
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def add(self, feeds: Feeds) -> None:
        """Take one sample; it waits for its turn in the background. Raises what an earlier sample raised."""
        while len(self._pending) > self._threads:  # one more waits, so that no thread does
            self._pending.popleft().result()
        if self.samples:
            self._pending.append(self._pool.submit(self._run_and_count, feeds))
        else:
            self._measure(feeds)
        self.samples += 1

    def finish(self) -> None:
        """Wait for all samples. Raises what one of them raised."""
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def cancel(self) -> None:
        """Drop the samples that are waiting, and wait for those that run."""
        self._pool.shutdown(cancel_futures=True)

    def _measure(self, feeds: Feeds) -> None:
        """Run the first sample, and settle how many fit at once beside what is there already, with room to spare."""
        before = psutil.Process().memory_info().rss
        self._run_and_count(feeds)
        after = psutil.Process().memory_info().rss
        fitting = (self._memory_bytes - after) // max(2 * (after - before), 1)
        self._threads = max(1, min(self._threads, fitting + 1))
        self._pool = ThreadPoolExecutor(self._threads)

    def _run_and_count(self, feeds: Feeds) -> None:
        arrays = self._run(self._outputs, feeds)
        arrays.reverse()
        for key in self._keys:
            array = arrays.pop()  # its memory is free for the next run once it is counted
            with self._locks[key]:
                self._count(key, array)

    def _count(self, key: str, array: object) -> None:
        if not isinstance(array, np.ndarray):
            self.other[key] = "no tensor"
        elif array.dtype != np.float32:
            self.other[key] = str(array.dtype)
        else:
            self.collectors[key].observe(array)
