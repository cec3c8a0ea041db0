"""Runs the command many times without starting Python and importing everything anew: each run is a fork.

What is forked has imported our modules and what they import, and has done nothing else: no onnxruntime, no thread of
ours, no open file. A run gets its own arguments, working directory, environment and streams, and ends as a process
does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_AT_ONCE = 1 << 16


class Nursery:
    """The process that forks; it ends with this one.

    Args:
        environment: What it is started with: what Python reads of it at its start holds for all runs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )
        atexit.register(self.close)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: tuple[int, int, int]
    ) -> int:
        """Run the command; returns its exit code, or the negative number of the signal that ended it.

        Args:
            arguments: Of the command, its name first.
            folder: The working directory.
            environment: All of it.
            streams: Descriptors of stdin, stdout and stderr.
        """
        asked = json.dumps({"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)})
        socket.send_fds(self._ours, [f"{asked}\n".encode()], list(streams))
        return int(self._ours.recv(_AT_ONCE))

    def close(self) -> None:
        """End the process."""
        self._ours.close()
        self._process.wait()


def _serve(requests: socket.socket) -> None:
    """Fork for each request; returns in each fork, and when the other side hangs up."""
    while True:
        header, streams, _, _ = socket.recv_fds(requests, _AT_ONCE, 3)
        while header and not header.endswith(b"\n"):
            header += requests.recv(_AT_ONCE)
        if not header:
            os._exit(0)
        process = os.fork()
        if not process:
            requests.close()
            _become(json.loads(header), streams)
            return
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(process, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(asked: dict[str, object], streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    sys.argv[:] = asked["arguments"]  # type: ignore[call-overload]


def _import_all() -> None:
    """Everything of ours but what a child alone imports."""
    import modelopt

    root = Path(modelopt.__path__[0])
    for path in sorted(root.rglob("*.py")):
        if path.stem not in {"__main__", "__init__", "child"}:
            importlib.import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
    if "onnxruntime" in sys.modules:
        raise AssertionError("one of our modules imports onnxruntime where it is imported itself")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _import_all()
    gc.freeze()  # collecting what all runs share would copy it
    with contextlib.closing(socket.socket(fileno=int(sys.argv[1]))) as _socket:
        _serve(_socket)
    from modelopt_onnx import main

    main()
