"""The campaign of repeated calls in small; `make leaks` runs it whole."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import tracemalloc
from pathlib import Path

import psutil
import pytest

import modelopt
from tests.campaigns import leaks
from tests.campaigns.leaks import State, grown
from tests.command_line import MLP

_STATE = State(memory_bytes=100, files=6, maps=70, threads=2, children=0, temporary=0)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(State)])
def test_each_kind_of_growth_is_found(name: str) -> None:
    more = dataclasses.replace(_STATE, **{name: getattr(_STATE, name) + 11})
    assert [each.partition(":")[0] for each in grown([_STATE, _STATE, more], 2, most_bytes=10)] == [name]
    assert grown([more, _STATE, _STATE], 2, most_bytes=10) == []


@pytest.mark.usefixtures("started_children")
def test_calls_in_one_process_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is what Python and numpy hold: what the allocator keeps resident depends on the tests that ran before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(psutil.Process().children(recursive=True))  # of other tests
    states = []
    tracemalloc.start()
    try:
        for call in (leaks.bench, leaks.refused_bench, leaks.bench):
            (found,) = leaks.repeated(call, 1)
            states.append(dataclasses.replace(found, memory_bytes=tracemalloc.get_traced_memory()[0]))
    finally:
        tracemalloc.stop()
    assert grown(states, 1, most_bytes=leaks.MOST_GROWTH_BYTES // 8) == []
    assert states[-1].children == before


def test_hashing_a_small_model_takes_little_memory() -> None:
    """Threads hash, and the allocator keeps what each of them freed: a long-lived process grew by 16 MiB a thread."""
    modelopt.inspect(MLP)
    gc.collect()
    tracemalloc.start()
    try:
        modelopt.inspect(MLP)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
