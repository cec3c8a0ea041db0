"""The process that forks: imports all of modelopt once, then forks a command or a child for each request.

    python -m tests.forks.server DESCRIPTOR

A request is one message of JSON on the socket DESCRIPTOR, with four descriptors: standard input, output and error of
the fork, and one that takes two numbers: its process id and, once it has ended, its exit code (negative for a signal).
The server ends when the socket is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

import modelopt
import modelopt_onnx
from tests.forks import NUMBER_BYTES, children

_MESSAGE_BYTES = 2**18
_DESCRIPTORS = 4
_HIGHEST = 1024


def _import_all() -> None:
    for found in pkgutil.walk_packages(modelopt.__path__, "modelopt."):
        if not found.name.rpartition(".")[2].startswith("lib"):  # a shared library without a Python module
            importlib.import_module(found.name)
    for name in ("onnx.checker", "onnx.shape_inference", "PIL.Image", "rich.progress", "yaml"):
        importlib.import_module(name)


def _next_request(channel: socket.socket) -> dict[str, Any] | None:
    """Serve until the socket is closed; in a fork: what it is to do, its streams in place."""
    wakes, woken = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it writes to `woken`
    waiting: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel.fileno(), wakes], [], [])
        if wakes in ready:
            os.read(wakes, 4096)
            _tell_ends(waiting)
        if channel.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, _DESCRIPTORS)
        if not message:
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            os.closerange(3, _HIGHEST)
            request: dict[str, Any] = json.loads(message)
            return request
        *streams, status = descriptors
        for descriptor in streams:
            os.close(descriptor)
        os.write(status, _number(pid))
        waiting[pid] = status


def _number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, signed=True)


def _tell_ends(waiting: dict[int, int]) -> None:
    while waiting:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = waiting.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(told, _number(os.waitstatus_to_exitcode(status)))
        os.close(told)


def _become(request: dict[str, Any]) -> NoReturn:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if (preload := request["preload"]) is not None:
        children.serve(preload)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = request["arguments"]
    code: object = 0
    try:
        modelopt_onnx.main()
    except SystemExit as end:
        code = end.code
    _end(code if isinstance(code, int) else 0 if code is None else 1)


def _end(code: int) -> NoReturn:
    """End like an interpreter, without the tenth of a second in which that takes its modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def main() -> None:
    """See the module."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    gc.collect()
    gc.freeze()  # forks do not touch, and so do not copy, what is there now
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = _next_request(channel)
    if request is not None:
        with children.forked_children():
            _become(request)


if __name__ == "__main__":
    main()
