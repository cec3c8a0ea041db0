"""The child processes of a command as forks of it: they have imported everything already."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

import onnxruntime  # noqa: F401 - forked children have it imported already

from modelopt.runtime import child, processes
from tests.forks.client import children_by

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGBUS, signal.SIGCHLD)
"""Signals that a command handles and its children do not."""


class _Forked:
    """Stands for the `subprocess.Popen` of a child that was forked."""

    def __init__(self, preload: str, stderr: IO[bytes]) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.returncode: int | None = None
        self._stored = threading.Event()
        self.pid = os.fork()
        if not self.pid:
            _serve(theirs_in, theirs_out, stderr.fileno(), (ours_in, ours_out), preload)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb")

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # another thread was first, and is about to store the status
                self._stored.wait()
                return self.returncode
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                self._stored.set()
        return self.returncode


def _serve(theirs_in: int, theirs_out: int, stderr: int, others: Sequence[int], preload: str) -> NoReturn:
    """What the child does after the fork."""
    for number in others:
        os.close(number)
    os.dup2(theirs_in, 0)
    os.dup2(theirs_out, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 256)  # another child's pipes: it would never see their end
    serve(preload)


def serve(preload: str) -> NoReturn:
    """Be a child whose parent is on descriptors 0 and 1, and end this process with it."""
    code = 1
    try:
        os.setsid()
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        sys.argv = ["child", "", preload]
        child.main()
        code = 0
    except BaseException:  # noqa: BLE001 - the interpreter would print it
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def fork(preload: str) -> processes.Spawned:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `Spawned.end` closes it
    process: Any = _Forked(preload, stderr)
    return processes.Spawned(process, stderr)


@contextlib.contextmanager
def forked_children() -> Iterator[None]:
    """Children of commands are forks of this process for a while, which must not have run a model itself."""
    with children_by(fork):
        yield
