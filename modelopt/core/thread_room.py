"""Whether a process may start as many threads as a command may need, and what is said where it may not.

OpenBLAS starts its threads when numpy is imported. Where one cannot be started it writes four lines to stderr and sends
its own process SIGINT: the command would end as if it was interrupted.
"""

from __future__ import annotations

import _thread
import os

from modelopt.core.errors import EnvironmentLacks

HINT = "allow more processes: see ulimit -u"
"""What helps where the system starts no more of them: it counts threads and processes together."""

_OF_PYTHON = "can't start new thread"
_OF_ONNXRUNTIME = "pthread_create failed, error code: "
_VARIABLE = "OPENBLAS_NUM_THREADS"
_MOST_CORES = 64  # more threads OpenBLAS does not start, as numpy builds it
_PER_CORE, _FURTHER = 4, 16


def spare_threads() -> None:
    """Let OpenBLAS, here and in child processes, start no thread where few can be started; before numpy is imported.

    A command needs threads of its own, and each of up to three children one for each core: they may leave none for
    numpy, which the command imports at the same time. So all are started once, and end, before anything else is.
    """
    if os.environ.get(_VARIABLE) == "1":
        return
    cores = min(_MOST_CORES, os.cpu_count() or 1)
    if not may_start(_PER_CORE * cores + _FURTHER):
        os.environ[_VARIABLE] = "1"


def is_lack(error: BaseException) -> bool:
    """Whether an exception of Python, or of onnxruntime's pool of threads, says that no thread can be started."""
    text = str(error)
    return text == _OF_PYTHON or ("::PosixThread(" in text and _OF_ONNXRUNTIME in text)


def no_thread(doing: str | None = None) -> EnvironmentLacks:
    """The error for that; `doing` is what needed the thread."""
    return EnvironmentLacks("no thread can be started", note=doing and f"it was for {doing}", hint=HINT)


def may_start(count: int) -> bool:
    """Whether so many threads can be there at once: they are started, and have ended when this returns."""
    gate, ends = _thread.allocate_lock(), [_thread.allocate_lock() for _ in range(count)]
    gate.acquire()

    def wait(end: _thread.LockType) -> None:
        with gate:
            end.release()

    started = []
    try:
        for end in ends:
            end.acquire()
            _thread.start_new_thread(wait, (end,))
            started.append(end)
    except RuntimeError:
        return False
    else:
        return True
    finally:
        gate.release()
        for end in started:
            end.acquire()
