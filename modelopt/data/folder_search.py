"""Whether a file is one of those that data in a folder consist of."""

from __future__ import annotations

import os
from pathlib import Path

from modelopt.data.arrays import ARRAY_SUFFIXES
from modelopt.data.images import IMAGE_SUFFIXES

_SUFFIXES = (*ARRAY_SUFFIXES, *IMAGE_SUFFIXES, ".pb")
_MAX_DEPTH = 3
"""Data are in a folder, or in folders of it: see `open_data`."""


def holds(folder: Path, file: Path) -> bool:
    """Whether `file`, under any of its names, lies in a folder of data under the name of an array, image or tensor.

    Args:
        folder: What the user names as data.
        file: A file that there is.
    """
    wanted = file.stat()
    return _holds(folder, (wanted.st_dev, wanted.st_ino), _MAX_DEPTH)


def _holds(folder: Path, wanted: tuple[int, int], depth: int) -> bool:
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(_SUFFIXES):
                    if (entry.is_symlink() or entry.inode() == wanted[1]) and _identity(entry) == wanted:
                        return True
                elif depth > 1 and entry.is_dir():
                    folders.append(Path(entry.path))
    except OSError:  # what reads the data says so
        return False
    return any(_holds(each, wanted, depth - 1) for each in folders)


def _identity(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        found = Path(entry.path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
