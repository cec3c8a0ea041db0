"""Where processes ran and may run, on real processes; each test sets the cores that it speaks of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelopt.runtime import cores
from modelopt.runtime.cores import Places

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen on this system")

_TWO_THREADS = """
import threading
stop = threading.Event()
threading.Thread(target=stop.wait, daemon=True).start()
print("ready", flush=True)
input()
"""


@pytest.fixture
def process() -> Iterator[int]:
    """A process with two threads that wait."""
    words = [sys.executable, "-c", _TWO_THREADS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started.pid
        started.kill()


def other_thread(pid: int) -> int:
    (found,) = (int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)
    return found


def test_a_process_is_confined_and_says_where_it_ran(process: int) -> None:
    one = frozenset(sorted(os.sched_getaffinity(0))[-1:])
    cores.confine(process, Places(one, one), main_only=False)
    assert os.sched_getaffinity(process) == os.sched_getaffinity(other_thread(process)) == one
    found = cores.last(process, threads=2)
    assert len(found.main) == len(found.others) == 1
    assert cores.last(process, threads=1).others == frozenset()


def test_other_threads_can_be_left_alone(process: int) -> None:
    everywhere = cores.everywhere()
    one = frozenset(sorted(everywhere.main)[:1])
    cores.confine(process, Places(one, one), main_only=True)
    assert os.sched_getaffinity(process) == one
    assert os.sched_getaffinity(other_thread(process)) == everywhere.others


def test_the_main_thread_gets_a_core_that_no_other_is_bound_to(process: int) -> None:
    everywhere = cores.everywhere()
    if len(everywhere.main) < 2:
        pytest.skip("needs two cores")
    bound = frozenset(sorted(everywhere.main)[:1])
    assert cores.without_bound(process, everywhere) == everywhere
    os.sched_setaffinity(other_thread(process), bound)
    assert cores.without_bound(process, everywhere).main == everywhere.main - bound
    assert cores.without_bound(process, Places(bound, bound)).main == bound  # there is no other


def test_a_process_that_is_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert cores.last(ended.pid, 2) == Places(frozenset(), frozenset())
    assert cores.without_bound(ended.pid, cores.everywhere()) == cores.everywhere()
    cores.confine(ended.pid, cores.everywhere(), main_only=False)
