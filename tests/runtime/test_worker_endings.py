"""How child processes end: killed, out of time, out of memory, interrupted, or while somebody still waits for them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modelopt.core.errors import ExitCode, Refused, WorkerDied
from modelopt.runtime import limits
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker

pytestmark = pytest.mark.usefixtures("started_children")

GIB = 2**30
SPEC = SessionSpec(threads=1, spin=False)


def test_a_paused_worker_can_be_closed(linear: Path) -> None:
    with Worker() as each:
        each.open(linear, SPEC)
        each.pause()
    assert not _alive(each.pid)


def test_a_killed_child_is_one_error(worker: Worker, endless: Path) -> None:
    session = worker.open(endless, SPEC)
    threading.Timer(0.3, lambda: os.kill(worker.pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerDied) as caught:
        session.run({"x": np.ones(1, np.float32)})
    assert caught.value.reason == "signal"
    assert "SIGKILL" in str(caught.value.note)
    assert caught.value.exit_code is ExitCode.REFUSED
    with pytest.raises(WorkerDied):
        worker.versions()


def test_an_endless_run_is_ended(endless: Path) -> None:
    with Worker(Limits(memory_bytes=4 * GIB, seconds=2)) as each:
        session = each.open(endless, SPEC)
        with pytest.raises(WorkerDied, match="longer than 2 s") as caught:
            session.run({"x": np.ones(1, np.float32)})
    assert caught.value.reason == "timeout"
    assert not _alive(each.pid)


def test_a_hungry_run_is_ended(hungry: Path) -> None:
    with Worker(Limits(memory_bytes=300 * 2**20, seconds=60)) as each:
        session = each.open(hungry, SPEC)
        assert session.run({"n": np.array([10])})[0].shape == (1,)
        with pytest.raises(WorkerDied, match=r"0\.3 GiB") as caught:
            session.run({"n": np.array([100_000_000])})
    assert caught.value.reason == "memory"


def test_a_tensor_that_cannot_be_allocated_is_one_error(worker: Worker, hungry: Path) -> None:
    session = worker.open(hungry, SPEC)
    with pytest.raises((Refused, WorkerDied)):
        session.run({"n": np.array([2**50])})


def test_an_interrupted_request_ends_the_child(worker: Worker, endless: Path) -> None:
    session = worker.open(endless, SPEC)
    main = threading.get_ident()
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        session.run({"x": np.ones(1, np.float32)})
    assert not _alive(worker.pid)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_request_behind_the_end_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """A session that is opened in the background may still be waited for when something else ends the run."""
    worker = Worker()
    worker.close()
    with pytest.raises(WorkerDied, match="came too late"):
        worker.versions()
    worker.keep_soon(Path("m.onnx"), SessionSpec())
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(open_quietly)"):
            thread.join()
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_is_closed_while_another_thread_begins_its_first_request(
    monkeypatch: pytest.MonkeyPatch, linear: Path
) -> None:
    """A session is opened in the background, and the command ends with an error before that."""
    begun = threading.Event()

    class SlowThread(threading.Thread):
        def start(self) -> None:
            begun.set()
            time.sleep(0.2)
            super().start()

    worker = Worker()
    monkeypatch.setattr(limits, "threading", SimpleNamespace(Thread=SlowThread))
    worker.keep_soon(linear, SPEC)
    assert begun.wait(60)
    worker.close()
