"""Starts child processes; a command may start those that it will need before it does anything else.

Then a child imports onnx or onnxruntime while the parent imports its own modules and reads the model. For this reason
the module itself imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from modelopt.core import temporary

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
# -P keeps the working directory off the path: a stray numpy.py there must not run. The package's own root goes last, so
# that a checkout that is not installed works too.
_CODE = "import sys; sys.path.append(sys.argv[1]); from modelopt.runtime.child import main; main()"


@dataclass(frozen=True)
class Spawned:
    """A child that serves `modelopt.runtime.child` on its stdin and stdout.

    Attributes:
        process: The process.
        stderr: The file that its stderr goes to.
    """

    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    def kill(self) -> None:
        """End the process and wait for that."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End the process and close its streams."""
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            with contextlib.suppress(OSError):  # what is left in a buffer has no reader
                stream and stream.close()


class ChildPool:
    """Children that were started before their first use; a context manager that ends those that nobody took."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Spawned]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for child in (child for children in self._waiting.values() for child in children):
            child.end()
        self._waiting.clear()

    def start(self, preload: str) -> Spawned:
        """Start a child that imports the module `preload`, for a later `take`."""
        child = spawn(preload)
        self._waiting.setdefault(preload, []).append(child)
        return child

    def take(self, preload: str) -> Spawned:
        """A child that imports `preload`: one that waits, or a new one. Who takes it ends it."""
        waiting = self._waiting.get(preload)
        return waiting.pop() if waiting else spawn(preload)


def spawn(preload: str) -> Spawned:
    """Start a child that imports the module `preload`. Who calls this ends it."""
    stderr = temporary.unnamed_file()  # `Spawned.end` closes it
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, str(_PACKAGE_ROOT), preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        start_new_session=True,  # a terminal's Ctrl-C reaches the parent only
    )
    return Spawned(process, stderr)
