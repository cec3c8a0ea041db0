"""What a command has written so far: an interrupted one says it.

A file gets its name by a rename, and an interrupt may come right before or right after it. So the file is noted before
the rename, by its place on the disk: it was written where the name leads to that place.
"""

from __future__ import annotations

from pathlib import Path

_renamed: dict[Path, tuple[int, int]] = {}
_piped: list[bool] = []


def note(temporary: Path, target: Path) -> None:
    """Note that the file `temporary` is about to be called `target`.

    Raises:
        OSError: There is no file `temporary`.
    """
    _renamed[target] = _place(temporary)


def note_piped() -> None:
    """Note that a part of an output is about to go to stdout."""
    _piped.append(True)


def forget() -> None:
    """Begin anew, with another command."""
    _renamed.clear()
    _piped.clear()


def described() -> str:
    """What was written, as the end of a sentence."""
    there = [f"{path} was written" for path, place in _renamed.items() if _is_at(path, place)]
    if _piped:
        there.append("the model on standard output may be cut short")
    return "; ".join(there) or "nothing was written"


def _is_at(path: Path, place: tuple[int, int]) -> bool:
    try:
        return _place(path) == place
    except OSError:
        return False


def _place(path: Path) -> tuple[int, int]:
    """The device and the inode of a file: a rename keeps both."""
    found = path.stat()
    return found.st_dev, found.st_ino
