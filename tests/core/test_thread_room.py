"""Systems that start few threads."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from modelopt.cli.endings import as_ours
from modelopt.core import thread_room
from modelopt.core.errors import EnvironmentLacks

VARIABLE = "OPENBLAS_NUM_THREADS"
OF_ONNXRUNTIME = (
    "[ONNXRuntimeError] : 1 : FAIL : /src/env.cc:265 onnxruntime::{anonymous}::PosixThread::PosixThread(const char*, "
    "int) pthread_create failed, error code: 11 error msg: Resource temporarily unavailable"
)


def starting_at_most(count: int) -> SimpleNamespace:
    """The module `_thread` of a system that starts so many threads."""
    started: list[int] = []

    def start(function: Callable[..., None], arguments: tuple[object, ...]) -> int:
        if len(started) == count:
            raise RuntimeError("can't start new thread")
        started.append(_thread.start_new_thread(function, arguments))
        return started[-1]

    return SimpleNamespace(allocate_lock=_thread.allocate_lock, start_new_thread=start)


def test_threads_are_started_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _thread._count()
    monkeypatch.setattr(thread_room, "_thread", starting_at_most(3))
    assert thread_room.may_start(3)
    monkeypatch.setattr(thread_room, "_thread", starting_at_most(3))
    assert not thread_room.may_start(4)
    assert _thread._count() <= before + 3  # those that were asked to end may be counted for a moment


@pytest.mark.parametrize(("most", "found"), [(0, "1"), (1000, None)])
def test_openblas_starts_none_where_few_can_be_started(
    monkeypatch: pytest.MonkeyPatch, most: int, found: str | None
) -> None:
    monkeypatch.setenv(VARIABLE, "2")  # what is set here is taken back at the end
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(thread_room, "_thread", starting_at_most(most))
    thread_room.spare_threads()
    assert os.environ.get(VARIABLE) == found


def test_who_has_told_openblas_so_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(thread_room, "_thread", None)
    thread_room.spare_threads()
    assert os.environ[VARIABLE] == "1"


@pytest.mark.parametrize("text", ["can't start new thread", OF_ONNXRUNTIME])
def test_a_missing_thread_is_no_bug(text: str) -> None:
    error = as_ours(RuntimeError(text))
    assert isinstance(error, EnvironmentLacks)
    assert error.fact == "no thread can be started"
    assert error.hint is not None
    assert "ulimit -u" in error.hint


def test_other_errors_that_speak_of_threads_are_not_taken_for_it() -> None:
    assert as_ours(RuntimeError("cannot join thread before it is started")) is None
    assert not thread_room.is_lack(RuntimeError("Node 'pthread_create failed, error code: 11': bad shape"))
