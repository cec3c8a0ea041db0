"""SIGBUS: what the system sends when a mapped file became shorter, or its disk fails, while it is read.

Python cannot handle it: the read that failed is repeated before any Python code runs. So the handler is one of the C
library's, which calls Python where the read stands. It may only say what happened and end the process; what the run
leaves is removed by the next one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

_end: Callable[[], None] | None = None
_installed: list[Any] = []


def handle(end: Callable[[], None]) -> None:
    """Have `end` called once a read of a mapped file fails; it must end the process. For a command, not for a library.

    Args:
        end: What says so and ends the process.
    """
    global _end
    _end = end


def arm() -> None:
    """Install the handler, where one was given: a file is about to be mapped."""
    if _end is None or _installed:
        return
    import ctypes  # numpy imports it as well, and who maps no file does not wait for it

    end = _end
    called = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _number: end())
    _installed.append(called)  # the C library does not keep it alive
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, type(called))
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGBUS, called)
