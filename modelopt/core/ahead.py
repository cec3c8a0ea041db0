"""Results of calls in order, while threads already work on the next ones: numpy releases the interpreter's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from modelopt.core.targets import usable_cores

_T = TypeVar("_T")


def in_order(calls: Iterable[Callable[[], _T]]) -> Iterator[_T]:
    """The result of each call, in order. At most as many are ahead of the caller as there are cores.

    Args:
        calls: They do not depend on each other, nor on what the caller does between two of them.
    """
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > usable_cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
