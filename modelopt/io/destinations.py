"""Where outputs go: what a path that the user gives leads to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelopt.core.errors import InputError
from modelopt.io.files import sibling

_STDOUT = ("/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1")
_MAX_LINKS = 40


def names_stdout(path: Path) -> bool:
    """Whether a path is a name of this process's standard output, as ``/dev/stdout`` is."""
    current = path.absolute()
    for _ in range(_MAX_LINKS):
        if str(current) in _STDOUT or str(current) == f"/proc/{os.getpid()}/fd/1":
            return True
        try:
            current = current.parent / current.readlink()
        except (OSError, ValueError):
            return False
        current = Path(os.path.normpath(current))
    return False


def destination(
    output: Path, role: str = "the output", hint: str | None = "use - to write the model to stdout"
) -> Path:
    """The file that writing to `output` makes: behind a link, what the link leads to.

    Args:
        output: The path.
        role: What it is, for the error.
        hint: What to do where it is no regular file.

    Raises:
        InputError: It is a directory or a device, or its folder does not exist.
    """
    try:
        target = output.resolve()
        mode = output.stat().st_mode if output.exists() else stat.S_IFREG
        has_name = target.exists() or not output.exists()  # a descriptor's name may lead to a file that was removed
        is_folder = target.parent.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that is too long
        raise InputError(f"{output} cannot be written to", note=str(error)) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{role} {output} is a directory", hint=f"give a file name: {output / 'model.onnx'}")
    if not stat.S_ISREG(mode) or not has_name:
        raise InputError(f"{role} {output} is not a regular file", hint=hint)
    if not is_folder:
        raise InputError(f"the folder {target.parent} does not exist", hint=sibling(target.parent))
    return target
