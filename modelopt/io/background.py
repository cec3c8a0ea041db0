"""One call in a thread of its own: for what waits for the disk, a child, or a hash."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def in_background(function: Callable[[], _T]) -> Future[_T]:
    """Call `function` in a thread of its own; its result waits for the end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function)
    pool.shutdown(wait=False)
    return future
