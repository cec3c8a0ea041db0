"""Data files beside the models that modelopt writes.

The name of a data file holds a hash of its contents, so that a new version never overwrites the weights of an old one.
A data file is removed when the output that named it is replaced, but only where it is certain that modelopt wrote it
and that no other file of the folder names it: a model finds its data in its own folder alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from modelopt.io.file_kinds import may_be_model

MIN_BYTES = 1024
"""Smaller tensors stay in the model file."""

_DIGITS = 12

MAX_FILES = 10_000
"""In a folder of more files no data file is removed: looking at them all would take too long."""

MAX_SEARCHED_BYTES = 16 * 2**30
"""The same where the models of a folder are larger together."""

_PART_BYTES = 2**24

_ARCHIVES = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf",
    b"\x04\x22\x4d\x18",
)
"""How compressed files begin: gzip, zip, bzip2, xz, zstd, 7z and lz4."""


def data_name(target: Path, digest: str) -> str:
    """The name of the data file of the model `target`; it says what the file holds, by its SHA-256 in hex."""
    return f"{target.name}.{digest[:_DIGITS]}.data"


def data_files(target: Path) -> set[Path]:
    """Files beside `target` that have the name of a data file of it."""
    return {entry for entry in target.parent.iterdir() if is_data_name(target, entry.name)}


def is_data_name(target: Path, name: str) -> bool:
    """Whether a file of that name beside `target` would be a data file of it."""
    return re.fullmatch(rf"{re.escape(target.name)}\.[0-9a-f]{{{_DIGITS}}}\.data", name) is not None


def holds_what_it_says(data: Path) -> bool:
    """Whether a data file is as modelopt wrote it: its name says what it holds."""
    if not stat.S_ISREG(data.lstat().st_mode):
        return False
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return data.name.endswith(f".{digest[:_DIGITS]}.data")


def named_data(model_file: Path, candidates: Collection[Path]) -> set[Path]:
    """Those of `candidates` whose names the bytes of a model hold; none where it cannot be read."""
    with contextlib.suppress(OSError):
        return _named(model_file, candidates)
    return set()


def _named(model_file: Path, candidates: Collection[Path]) -> set[Path]:
    if not candidates or not model_file.is_file():
        return set()
    names = {os.fsencode(data.name): data for data in candidates}
    kept = max(map(len, names)) - 1
    found: set[Path] = set()
    part = b""
    with model_file.open("rb", buffering=0) as file:  # not mapped: it may shrink meanwhile
        while more := file.read(_PART_BYTES):
            part = part[-kept:] + more
            found |= {data for name, data in names.items() if name in part}
    return found


def unused(
    candidates: Collection[Path], ignored: Collection[Path] = (), *, are_ours: bool = False
) -> tuple[set[Path], tuple[str, ...]]:
    """Those of `candidates`, data files in one folder, that can be removed, and why the others stay.

    Args:
        candidates: The data files.
        ignored: Files in their folder that need no data any more.
        are_ours: This run has written the candidates.
    """
    removed, notes = set(candidates), []
    for data in () if are_ours else sorted(candidates):
        reason = _why_kept(data)
        if reason is not None:
            removed.discard(data)
            notes.append(f"the old data file {data} stays: {reason}")
    users = _users(removed, ignored)
    while removed and (user := next(users, None)) is not None:
        named, reason = user
        notes += [f"the old data file {data} stays: {reason}" for data in sorted(removed & named)]
        removed -= named
    return removed, tuple(notes)


def _why_kept(data: Path) -> str | None:
    """Why a data file is not certain to be ours; None where it is."""
    try:
        return None if holds_what_it_says(data) else "it is not as modelopt wrote it"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _users(candidates: Collection[Path], ignored: Collection[Path]) -> Iterator[tuple[set[Path], str]]:
    """For each file that may need data files: which of `candidates`, and why they stay."""
    if not candidates:
        return
    everything, folder = set(candidates), next(iter(candidates)).parent
    passed_over = {path.name for path in (*candidates, *ignored)}
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_FILES + 1)]
    except OSError as error:
        yield everything, f"its folder cannot be read ({error.strerror}), and a model there may need it"
        return
    if len(names) > MAX_FILES:
        yield everything, f"its folder holds more than {MAX_FILES} files, and one of them may need it"
        return
    left = MAX_SEARCHED_BYTES
    for path in (folder / name for name in sorted(names) if name not in passed_over):
        try:
            if not path.is_file():
                continue
            if _may_hold_copy(path, candidates):
                yield everything, f"{path.name} is compressed, and may hold a model that needs it"
            elif may_be_model(path):
                left -= path.stat().st_size
                if left < 0:
                    yield everything, "the models in its folder are too large to look for one that needs it"
                    return
                yield _named(path, candidates), f"{path.name} needs it"
        except OSError as error:
            yield everything, f"{path.name} cannot be read ({error.strerror}), and may need it"


def _may_hold_copy(path: Path, candidates: Collection[Path]) -> bool:
    """Whether a file is compressed and is called after the output: it may hold a copy of that."""
    outputs = {data.name.rsplit(".", 2)[0] for data in candidates}
    if not any(name in path.name for name in outputs):
        return False
    with path.open("rb") as file:
        return file.read(8).startswith(_ARCHIVES)


def remove(files: Collection[Path]) -> None:
    """Remove files, as far as that is possible."""
    for path in files:
        unlink(path)


def remove_stale(target: Path) -> None:
    """Remove what a killed process left when it wrote the same output."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]+)\.tmp(\.onnx|\.data|)")
    for entry in list(target.parent.iterdir()):
        found = pattern.fullmatch(entry.name)
        if found and not _is_alive(int(found[1])):
            named = named_data(entry, data_files(target))
            unlink(entry)
            remove(unused(named)[0])


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
