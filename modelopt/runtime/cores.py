"""On which cores a process ran and may run, so that processes whose latencies are compared run on the same cores.

Cores differ in speed, by what else runs on them, on their hyperthread, or on the host of a virtual machine, and a
thread tends to stay on its core. This works on Linux only; on other systems nothing is known and nothing is done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Places(NamedTuple):
    """Where the threads of a process ran last, or may run.

    Attributes:
        main: The main thread, which calls the runtime and computes.
        others: All other threads.
    """

    main: frozenset[int]
    others: frozenset[int]


def everywhere() -> Places:
    """The cores that this process may use; none where that is not known."""
    found = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset[int]()
    return Places(found, found)


def last(pid: int, threads: int) -> Places:
    """Where the main thread and the busiest `threads` - 1 others of a process ran last; none where not known."""
    found: list[tuple[int, int]] = []
    main = frozenset[int]()
    with contextlib.suppress(OSError, ValueError, IndexError):
        for task in _tasks(pid):
            # proc_pid_stat(5), after the name in brackets: utime and stime are fields 14 and 15, processor is 39.
            fields = (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(task.name) == pid:
                main = frozenset({int(fields[36])})
            else:
                found.append((int(fields[11]) + int(fields[12]), int(fields[36])))
    return Places(main, frozenset(core for _, core in sorted(found, reverse=True)[: threads - 1]))


def without_bound(pid: int, places: Places) -> Places:
    """`places` without the cores that other threads of the process are bound to, one each, for its main thread.

    Where it uses all cores onnxruntime binds each of its threads to one, and leaves the main thread where it is: on the
    core of another one, where both take three times as long, until the system moves it.
    """
    bound = set[int]()
    with contextlib.suppress(OSError):
        for task in _tasks(pid):
            allowed = os.sched_getaffinity(int(task.name))
            if int(task.name) != pid and len(allowed) == 1:
                bound |= allowed
    return Places(places.main - bound or places.main, places.others)


def confine(pid: int, places: Places, *, main_only: bool) -> None:
    """Let the threads of a process run there only; nothing happens where that is not possible.

    Args:
        pid: The process.
        places: Where.
        main_only: Whether to leave the other threads alone: onnxruntime binds them itself where it uses all cores.
    """
    with contextlib.suppress(OSError):
        for task in _tasks(pid):
            cores = places.main if int(task.name) == pid else places.others
            if cores and not (main_only and int(task.name) != pid):
                os.sched_setaffinity(int(task.name), cores)


def _tasks(pid: int) -> Iterator[Path]:
    return Path(f"/proc/{pid}/task").iterdir()
