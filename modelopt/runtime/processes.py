"""Starts child processes, ahead of their first use where the caller asks for it.

Imports nothing heavy: a command that will need children starts them first, and they import onnx or onnxruntime while
the parent imports its own modules and reads the model.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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


_waiting: dict[str, list[Spawned]] = {}


def ahead(preload: str) -> None:
    """Start a child that imports the module `preload`, for a later `take`; it ends with this process at the latest."""
    if not _waiting:
        atexit.register(_end_unused)
    _waiting.setdefault(preload, []).append(_spawn(preload))


def take(preload: str) -> Spawned:
    """A child that imports `preload`: one that waits for its first use, or a new one."""
    waiting = _waiting.get(preload)
    return waiting.pop() if waiting else _spawn(preload)


def _spawn(preload: str) -> Spawned:
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who takes it
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, str(_PACKAGE_ROOT), preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        start_new_session=True,  # a terminal's Ctrl-C reaches the parent only
    )
    return Spawned(process, stderr)


def _end_unused() -> None:
    for child in (child for children in _waiting.values() for child in children):
        child.process.kill()
        child.process.wait()
        for stream in (child.process.stdin, child.process.stdout, child.stderr):
            with contextlib.suppress(OSError):
                stream and stream.close()
    _waiting.clear()
