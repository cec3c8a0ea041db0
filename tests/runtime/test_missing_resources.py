"""What the child and its parent say where the system gives no thread, or no room for onnxruntime's files."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelopt.core.errors import EnvironmentLacks
from modelopt.runtime import child, limits, protocol
from modelopt.runtime.child_session import ChildSession
from modelopt.runtime.installation import explain
from modelopt.runtime.limits import Limits, Watch
from modelopt.runtime.protocol import Failure
from modelopt.runtime.session import SessionSpec

NO_THREAD = (
    "[ONNXRuntimeError] : 1 : FAIL : onnxruntime::PosixThread::PosixThread(int) pthread_create failed, error code: 11"
)
UNWRITTEN = '[ONNXRuntimeError] : 1 : FAIL : Failed to write external initializers to file: "/tmp/x/weights.bin"'


class NoThread:
    """Stands for a thread that cannot be started."""

    def __init__(self, **_how: object) -> None:
        pass

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_a_child_without_the_thread_that_watches_it_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(os.getpid(), lambda: None, Limits(memory_bytes=2**30, seconds=1))
    monkeypatch.setattr(limits, "threading", SimpleNamespace(Thread=NoThread))
    with pytest.raises(EnvironmentLacks, match="no thread can be started") as caught, watch:
        pass
    assert "ulimit -u" in str(caught.value.hint)
    watch.close()


def opened_by(monkeypatch: pytest.MonkeyPatch, error: str, spec: SessionSpec, folder: Path) -> Failure:
    """What the child answers where onnxruntime raises `error` for a model."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError(error)

    runtime = SimpleNamespace(
        get_available_providers=lambda: ["CPUExecutionProvider"],
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_pair: None),
        GraphOptimizationLevel=SimpleNamespace(ORT_ENABLE_ALL=2, ORT_ENABLE_BASIC=1, ORT_DISABLE_ALL=0),
        InferenceSession=refuse,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    with pytest.raises(Failure) as caught:
        ChildSession(folder / "m.onnx", spec, str(folder))
    return caught.value


@pytest.mark.parametrize(
    ("error", "spec", "fact"),
    [
        (NO_THREAD, SessionSpec(), "no thread can be started"),
        (UNWRITTEN, SessionSpec(profile=True, trace=True), "onnxruntime could not write its profile"),
    ],
)
def test_a_session_that_the_system_does_not_let_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str, spec: SessionSpec, fact: str
) -> None:
    failure = opened_by(monkeypatch, error, spec, tmp_path)
    told = explain(failure.kind, failure.text, "loading the model m.onnx", spec)
    assert isinstance(told, EnvironmentLacks)
    assert told.fact == fact
    assert told.note
    assert told.hint


def test_a_model_that_only_says_so_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a trace nothing is written: the words come out of the model."""
    assert opened_by(monkeypatch, UNWRITTEN, SessionSpec(), tmp_path).kind == "load"


def answered(monkeypatch: pytest.MonkeyPatch, error: Exception) -> dict[str, Any]:
    """What the child answers where a request of its parent ends with `error`."""

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(child.Child, "versions", fail)
    requests, replies = io.BytesIO(), io.BytesIO()
    protocol.write(requests, {"call": "versions"})
    requests.seek(0)
    child.serve(requests, replies)
    replies.seek(0)
    return protocol.read(replies)[0]


def test_a_request_that_gets_no_thread_leaves_the_child_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(monkeypatch, RuntimeError("can't start new thread"))["failure"] == "threads"
    with pytest.raises(RuntimeError, match="another"):
        answered(monkeypatch, RuntimeError("another"))


@pytest.mark.parametrize("written", [None, "", '[\n{"cat" : "Session"},'])
def test_a_profile_that_is_not_whole_is_a_full_disk(tmp_path: Path, written: str | None) -> None:
    path = tmp_path / "run.json"
    if written is not None:
        path.write_text(written)
    session = ChildSession.__new__(ChildSession)
    session._session = SimpleNamespace(end_profiling=lambda: str(path))
    with pytest.raises(Failure) as caught:
        session.profile(None)
    assert isinstance(explain(caught.value.kind, caught.value.text, "reading the profile", None), EnvironmentLacks)
