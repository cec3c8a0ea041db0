"""Labels from a file of their own: arrays, one per line, or ``filename,label`` lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.data import user_files
from modelopt.data.arrayfile import NpyFile, NpzFile

MAX_LINES = 2_000_000
"""The most lines of a labels file, each of which takes some hundred bytes of memory: the largest public validation sets
have less than a tenth of it."""

_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Where `str.splitlines` splits."""

_MAX_LINE = 5000
"""The longest line, in characters: a path and a label."""

_MAX_TEXT_ARRAY_BYTES = 256 << 20
"""The largest array of labels that are words: each element has the room of the longest."""

_HEADER_WORDS = frozenset(("file", "filename", "file_name", "image", "name", "path"))
_SEPARATORS = ("\t", ",", None)


def label_array(values: Sequence[str]) -> np.ndarray:
    """Labels as written: int64 if all are integers, float64 if all are numbers, else unicode strings.

    Raises:
        InputError: The strings would take more than 256 MiB.
    """
    for dtype in (np.int64, np.float64):
        try:
            return np.array([dtype(value) for value in values], dtype=dtype)
        except (ValueError, OverflowError):
            continue
    if len(values) * max(map(len, values), default=0) * np.dtype("U1").itemsize > _MAX_TEXT_ARRAY_BYTES:
        raise InputError("the labels are words that are too long to be kept", hint="number the classes from 0")
    return np.array(values, dtype=np.str_)


def read_label_rows(path: Path) -> np.ndarray:
    """One label per row: from a ``.npy``, the ``label`` or ``labels`` of a ``.npz``, or one per line of text.

    Raises:
        InputError: The file cannot be read, or holds no labels.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        file = NpyFile(path)
        if file.header().nbytes > user_files.MAX_ARRAY_BYTES:
            raise InputError(f"{path} is too large", note=f"the limit is {user_files.MAX_ARRAY_BYTES} bytes")
        return np.array(file.load(), order="C")
    if suffix == ".npz":
        archive = NpzFile(path)
        key = next((key for key in ("label", "labels") if key in archive.headers()), None)
        if key is None:
            raise InputError(f"{path} holds no labels", note="no array is named 'label' or 'labels'")
        return archive.load([key])[key]
    return label_array(_lines(path))


def read_labels_for(path: Path, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of these files (paths relative to the data folder, ``/`` between), and notes on what was ignored.

    A line is ``filename,label`` (comma, tab or blanks between; a header line is skipped), where the file name alone is
    enough if it is unique. Otherwise each line is a label, in the sorted order of the files.

    Raises:
        InputError: A file has no label, or two; the numbers differ; the file cannot be read or is empty.
    """
    if path.suffix.lower() in (".npy", ".npz"):
        return _in_order(read_label_rows(path), names, path), ()
    lines = _lines(path)
    pairs = _pairs(lines, names)
    if pairs is None:
        return _in_order(label_array(lines), names, path), ()

    by_name = _resolved(pairs, names, path)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InputError(
            f"{path}: no label for '{missing[0]}'",
            note=f"{len(missing)} of {len(names)} files have none",
            hint=did_you_mean(missing[0], [name for name, _ in pairs]),
        )
    unused = len(pairs) - len(by_name)
    notes = (f"{path.name}: {unused} labels are for files that are not there: ignored",) if unused else ()
    return label_array([by_name[name] for name in names]), notes


def _lines(path: Path) -> list[str]:
    text = user_files.read_text(path)
    if sum(map(text.count, _LINE_ENDS)) > MAX_LINES:
        hint = "save them as a .npy"
        raise InputError(f"{path} has more than {MAX_LINES} lines", note="each is a label", hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    longest = max(map(len, lines), default=0)
    if longest > _MAX_LINE:
        raise InputError(f"{path} is no file of labels", note=f"a line has {longest} characters")
    if not lines:
        raise InputError(f"{path} is empty", hint="write one label per line")
    return lines


def _in_order(labels: np.ndarray, names: Sequence[str], path: Path) -> np.ndarray:
    if labels.ndim and len(labels) == len(names):
        return labels
    found = len(labels) if labels.ndim else 1
    raise InputError(
        f"{path}: labels do not match: {found} labels for {len(names)} samples",
        hint="write one label per file in sorted order, or lines of 'filename,label'",
    )


def _pairs(lines: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]] | None:
    """The lines as (file name, label), or None when they do not name files."""
    known = {*names, *(PurePosixPath(name).name for name in names)}
    for separator in _SEPARATORS:
        rows = [_split(line, separator) for line in lines]
        if len(rows) > 1 and rows[0][0].lower() in _HEADER_WORDS:
            rows = rows[1:]
        if all(len(row) == 2 for row in rows) and any(row[0] in known for row in rows):
            return [(row[0], row[1]) for row in rows]
    return None


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.rsplit(maxsplit=1)
    if separator not in line:
        return [line]
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [cells[0].strip(), separator.join(cells[1:]).strip()]


def _resolved(pairs: Sequence[tuple[str, str]], names: Sequence[str], path: Path) -> dict[str, str]:
    """Labels by full name; a bare file name counts where only one file has it."""
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(PurePosixPath(name).name, []).append(name)
    full = {name: [name] for name in names}
    labels: dict[str, str] = {}
    for written, label in pairs:
        matches = full.get(written, short.get(written, []))
        if len(matches) > 1:
            raise InputError(f"{path}: '{written}' is ambiguous", note=f"it may be {matches[0]} or {matches[1]}")
        if matches and labels.setdefault(matches[0], label) != label:
            raise InputError(f"{path}: '{matches[0]}' has two labels", note=f"{labels[matches[0]]} and {label}")
    return labels
