"""Data files beside the models that modelopt writes.

The name of a data file holds a hash of its contents, so that a new version never overwrites the weights of an old one.
A data file is removed when no model beside it names it any more.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from pathlib import Path

MIN_BYTES = 1024
"""Smaller tensors stay in the model file."""


def data_name(target: Path, digest: str) -> str:
    """The name of the data file of the model `target`; it says what the file holds, by its SHA-256 in hex."""
    return f"{target.name}.{digest[:12]}.data"


def data_files(target: Path) -> set[Path]:
    """Files beside `target` that are data files of ours."""
    pattern = re.compile(re.escape(target.name) + r"\.[0-9a-f]{12}\.data")
    return {entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)}


def named_data(model_file: Path, candidates: set[Path]) -> set[Path]:
    """Those of `candidates` whose names the bytes of a model hold."""
    with contextlib.suppress(OSError):
        if candidates and model_file.is_file() and model_file.stat().st_size:
            with model_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return {data for data in candidates if content.find(data.name.encode()) >= 0}
    return set()


def remove_unused(candidates: set[Path], target: Path, source: Path) -> None:
    """Remove those of `candidates` that no model beside `target` names any more."""
    for user in {target, source, *target.parent.glob("*.onnx")}:
        candidates = candidates - named_data(user, candidates)
    for data in candidates:
        unlink(data)


def remove_stale(target: Path, source: Path) -> None:
    """Remove what a killed process left when it wrote the same output."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]+)\.tmp\.(onnx|data)")
    for entry in list(target.parent.iterdir()):
        found = pattern.fullmatch(entry.name)
        if found and not _is_alive(int(found[1])):
            unused = named_data(entry, data_files(target))
            unlink(entry)
            remove_unused(unused, target, source)


def _is_alive(pid: int) -> bool:
    """Whether another process of that number runs. An old file with our own number is from a process that has ended."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def unlink(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    with contextlib.suppress(OSError):  # an error before this one matters more
        path.unlink()
