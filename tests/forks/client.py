"""Asks the server, one for each process that runs tests, for forks; starts it at the first."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from modelopt.core import temporary
from modelopt.runtime import processes, worker
from tests.forks import NUMBER_BYTES
from tests.paths import ROOT

STARTED = processes.spawn
"""How modelopt itself starts a child process."""


class Forked:
    """Stands for the `subprocess.Popen` of a fork of the server.

    Attributes:
        pid: Its process id.
        returncode: Its exit code, negative for a signal; None while nobody has seen its end.
        stdin: Ours to write to.
        stdout: Ours to read from.
    """

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], status: int) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._status = status
        self._reading = threading.Lock()
        weakref.finalize(self, os.close, status)
        self.pid = self._number()

    def poll(self) -> int | None:
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, given: bytes, timeout: float) -> bytes:
        """Write to its standard input, wait for its end, and return its standard output."""
        with ThreadPoolExecutor(2) as threads:
            threads.submit(self._give, given)
            out = threads.submit(self.stdout.read)
            try:
                self.wait(timeout)
            finally:
                self.kill()
            with self.stdout:
                return out.result()

    def _give(self, given: bytes) -> None:
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(given)

    def _await(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            with self._reading:
                if self.returncode is None:  # no other thread was first
                    self.returncode = self._number()
        return self.returncode

    def _number(self) -> int:
        return int.from_bytes(os.read(self._status, NUMBER_BYTES), signed=True)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks.server", str(theirs.fileno())],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "ORT_DISABLE_TELEMETRY": "1"},
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def start(
    *,
    arguments: Sequence[str | Path] = (),
    preload: str | None = None,
    cwd: Path,
    environment: Mapping[str, str],
    stderr: int,
    largest_file: int | None = None,
) -> Forked:
    """Fork the server.

    Args:
        arguments: Of a command, with its own name; unused where `preload` says that the fork is a child of one.
        preload: The module that the child would import.
        cwd: Its working directory.
        environment: All of its environment.
        stderr: The descriptor of a file or pipe that takes its standard error; still open afterwards.
        largest_file: The disk is full once a file holds so many bytes.
    """
    theirs_in, stdin = os.pipe()
    stdout, theirs_out = os.pipe()
    status, theirs_status = os.pipe()
    request = {
        "arguments": [str(argument) for argument in arguments],
        "preload": preload,
        "cwd": str(cwd),
        "environment": dict(environment),
        "largest_file": largest_file,
    }
    try:
        given = [theirs_in, theirs_out, stderr, theirs_status]
        socket.send_fds(_server(), [json.dumps(request).encode()], given)
    finally:
        for descriptor in (theirs_in, theirs_out, theirs_status):
            os.close(descriptor)
    return Forked(os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"), status)


def spawn(preload: str) -> processes.Spawned:
    """Do what `processes.spawn` does, with a fork of the server."""
    stderr = temporary.unnamed_file()  # `Spawned.end` closes it
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    process: Any = start(preload=preload, cwd=Path.cwd(), environment=environment, stderr=stderr.fileno())
    return processes.Spawned(process, stderr)


@contextlib.contextmanager
def children_by(starts: Callable[[str], processes.Spawned]) -> Iterator[None]:
    """Child processes of this one are started by `starts` for a while: `spawn` or `STARTED`."""
    kept = processes.spawn
    processes.spawn = worker.spawn = starts  # type: ignore[attr-defined,assignment]
    try:
        yield
    finally:
        processes.spawn = worker.spawn = kept  # type: ignore[attr-defined]
