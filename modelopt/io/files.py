"""Files before they are models: what may be read, and how."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from modelopt.core.errors import InputError, did_you_mean
from modelopt.io import mmap_files

STDIO = Path("-")
"""The path that means stdin for an input and stdout for an output."""


def map_file(path: Path, shown: str) -> memoryview:
    """The bytes of a regular file, mapped.

    Raises:
        InputError: It is not one, or it is empty.
    """
    regular_file(path, shown)
    if path.stat().st_size == 0:
        raise InputError(f"{shown} is empty", hint="an earlier command in a pipeline may have failed")
    return mmap_files.open_map(path)


def regular_file(path: Path, shown: str) -> None:
    """Make sure that `path` is a regular file that can be read.

    Raises:
        InputError: It is not; the fact says what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist", hint=sibling(path)) from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read", note=error.strerror) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{shown} is a directory, not a model", hint=_inside(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{shown} is not a regular file", hint="use - to read a model from stdin")
    if not os.access(path, os.R_OK):
        raise InputError(f"{shown} cannot be read", note="permission denied")


Version = tuple[int, ...] | None
"""What tells that a file is another one now or was written to; None where it is not there."""


def version(path: Path) -> Version:
    """The version of a file: of its inode, its size and when it was last written to."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return None


def sibling(path: Path) -> str | None:
    """A hint that names a file beside `path` that it may be a misspelling of."""
    with contextlib.suppress(OSError):
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return None


def _inside(path: Path) -> str | None:
    found = sorted(path.glob("*.onnx"))
    return f"did you mean '{found[0]}'?" if found else None
