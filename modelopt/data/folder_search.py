"""Whether a file is one of those that data in a folder consist of."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from modelopt.data.arrays import ARRAY_SUFFIXES
from modelopt.data.images import IMAGE_SUFFIXES
from modelopt.data.sound_file import AUDIO_SUFFIXES

_SUFFIXES = (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES, *AUDIO_SUFFIXES, ".pb")
_MAX_DEPTH = 3
"""Data are in a folder, or in folders of it: see `open_data`."""


def holds(folder: Path, file: Path) -> bool:
    """Whether `file`, under any of its names, lies in a folder of data under the name of such data.

    Args:
        folder: What the user names as data.
        file: A file that there is.
    """
    wanted = identity(file)
    return wanted is not None and _holds(folder, wanted, _MAX_DEPTH)


def _holds(folder: Path, wanted: tuple[int, int], depth: int) -> bool:
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(_SUFFIXES):
                    if (entry.is_symlink() or entry.inode() == wanted[1]) and identity(Path(entry.path)) == wanted:
                        return True
                elif depth > 1 and entry.is_dir():
                    folders.append(Path(entry.path))
    except OSError:  # what reads the data says so
        return False
    return any(_holds(each, wanted, depth - 1) for each in folders)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others on this machine, whatever it is called; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
