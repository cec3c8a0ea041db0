"""Texts and their labels from plain lines, JSON lines or a CSV file, one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from modelopt.core.errors import InputError, did_you_mean
from modelopt.data.arrays import LABEL_KEYS
from modelopt.data.columns import Columns
from modelopt.data.csv_file import bounded_lines, csv_rows

JSON_SUFFIXES = (".jsonl", ".ndjson")
LINE_SUFFIXES = (".txt",)

MAX_TEXT_FILE_BYTES = 1 << 30
"""The largest file of texts: 1 GiB; one line of it is in memory at a time."""

_TEXT_KEYS = ("text", "sentence")

Row = tuple[str, str, str | None]
"""Where a text stands, the text, and its label."""


def text_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """The texts of a file that are not empty, as the end of its name says how to read it.

    Of a CSV file or of JSON objects the text is the column ``text`` or ``sentence``, or the only one besides the label.

    Raises:
        InputError: The file is malformed or too large, or it does not say which column is the text or the label.
    """
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        return _json_rows(path, columns)
    if suffix in LINE_SUFFIXES:
        return ((where, line.strip(), None) for where, line in _lines(path) if line.strip())
    return _csv_texts(path, columns)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with bounded_lines(path, MAX_TEXT_FILE_BYTES) as lines:
        for line in lines:
            lines.length = 0
            yield f"{path}, line {lines.number}", line


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except RecursionError:
            raise InputError(f"{where}: the JSON is nested too deep") from None
        except ValueError as error:
            raise InputError(f"{where}: this is no JSON", note=str(error)[:200]) from None
        if isinstance(found, str):
            yield where, found, None
            continue
        if not isinstance(found, dict):
            raise InputError(f"{where}: this is neither an object nor a text", hint='write {"text": "…", "label": 1}')
        label = _label_name(list(found), columns, where)
        name = _text_name([key for key, value in found.items() if isinstance(value, str)], label, where)
        yield where, found[name], None if label is None else _label(found[label], label, where)


def _label(value: object, name: str, where: str) -> str:
    if isinstance(value, bool | int | float | str):
        return str(int(value)) if isinstance(value, bool) else str(value)
    raise InputError(f"{where}: '{name}' is no label: neither a number nor a word")


def _csv_texts(path: Path, columns: Columns) -> Iterator[Row]:
    rows = csv_rows(path)
    _, names = next(rows, (0, []))
    if not names:
        raise InputError(f"{path} is empty", hint="write one line of names, and one line per text")
    label = _label_name(names, columns, str(path))
    text = names.index(_text_name(names, label, str(path)))
    place = None if label is None else names.index(label)
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(names):
            raise InputError(f"{where}: {len(row)} cells, the first line has {len(names)}")
        yield where, row[text], None if place is None else row[place]


def _label_name(names: list[str], columns: Columns, where: str) -> str | None:
    if columns.label is None:
        return next((key for key in LABEL_KEYS if key in names), None)
    if columns.label not in names:
        if not columns.require_label:
            return None
        note = f"columns: {', '.join(names[:20])}"
        raise InputError(f"{where} has no column '{columns.label}'", note=note, hint=did_you_mean(columns.label, names))
    return columns.label


def _text_name(names: list[str], label: str | None, where: str) -> str:
    others = [name for name in names if name != label]
    found = next((key for key in _TEXT_KEYS if key in others), others[0] if len(others) == 1 else None)
    if found is None:
        note = f"columns: {', '.join(others[:20])}" if others else None
        raise InputError(f"{where} does not say which column is the text", note=note, hint="call it 'text'")
    return found
