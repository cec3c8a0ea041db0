"""Rows of a CSV file, with bounds on what a hostile one can take."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from modelopt.core.errors import InputError
from modelopt.data import user_files

MAX_TABLE_BYTES = 1 << 30
"""The largest table that is read: 1 GiB."""

MAX_ROW_CHARACTERS = 1 << 20
"""The longest row."""

_DELIMITERS = ",;\t"


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line; the first row says the delimiter.

    Raises:
        InputError: Not a regular file, not UTF-8, too large, no CSV, or a row is longer than `MAX_ROW_CHARACTERS`.
    """
    with bounded_lines(path, MAX_TABLE_BYTES) as lines:
        delimiter = max(_DELIMITERS, key=lines.first().count)
        try:
            for row in csv.reader(lines, delimiter=delimiter, strict=True):
                lines.length = 0
                if any(cell.strip() for cell in row):
                    yield lines.number, [cell.strip() for cell in row]
        except csv.Error as error:
            raise InputError(f"{path}, line {lines.number}: this is no CSV", note=str(error)) from None


@contextmanager
def bounded_lines(path: Path, most_bytes: int) -> Iterator[BoundedLines]:
    """The lines of a text file.

    Raises:
        InputError: Not a regular file, not UTF-8, larger than `most_bytes`, or it cannot be read.
    """
    size_bytes = user_files.regular_size(path)
    if size_bytes > most_bytes:
        raise InputError(f"{path} is too large", note=f"{size_bytes} bytes, the limit is {most_bytes}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield BoundedLines(file, path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", note=str(error)) from None
    except OSError as error:
        raise InputError(f"cannot read {path}", note=str(error)) from None


class BoundedLines:
    """The lines of a file, as long as those of a row are not too long; `length` is what they have so far."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.number = 0
        self.length = 0

    def first(self) -> str:
        """The beginning of the file, as far as its first line; the lines start there again."""
        line = self._file.readline(MAX_ROW_CHARACTERS)
        self._file.seek(0)
        return line

    def __iter__(self) -> BoundedLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_CHARACTERS + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.length += len(line)
        if self.length > MAX_ROW_CHARACTERS:
            note = f"the limit is {MAX_ROW_CHARACTERS} characters"
            raise InputError(f"{self._path}, line {self.number}: the row is too long", note=note)
        return line
