"""Samples from a table: the columns of a CSV file become the model's inputs."""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.core.signature import TensorSpec
from modelopt.data.arrays import LABEL_KEYS, ArrayDataset, from_memory
from modelopt.data.batch_axis import BatchAxes
from modelopt.data.check import fixed_size
from modelopt.data.columns import Columns
from modelopt.data.csv_file import csv_rows
from modelopt.data.dtypes import holds_floats, numpy_dtype
from modelopt.data.labels import label_array

TABLE_SUFFIXES = (".csv", ".tsv")

MAX_CELLS = 8_000_000
"""The most cells that are kept of a table."""

_MAX_TEXT_BYTES = 64 << 20
"""The most memory for the text of a column: each cell has the room of the longest."""

_LISTED = 5
"""How many columns that are not used are named."""

_TRUTHS = {"true": 1, "false": 0, "1": 1, "0": 0}


@dataclass(frozen=True)
class _Feed:
    """The columns that feed an input, by position, and the shape of a row of it."""

    spec: TensorSpec
    columns: tuple[int, ...]
    shape: tuple[int, ...]


def open_table(
    source: str,
    path: Path,
    inputs: Sequence[TensorSpec],
    *,
    columns: Columns,
    labels: Path | None,
    batch: int,
    batch_axes: BatchAxes | None = None,
) -> ArrayDataset:
    """The rows of a CSV file as samples.

    A column with the name of an input feeds it, and columns ``NAME[0]``, ``NAME[1]`` … feed an input with several
    numbers a row. One input that no column names takes the columns that are left, in their order. A table without a
    line of names holds numbers only.

    Args:
        source: What the user wrote.
        path: The file.
        inputs: The model's inputs.
        columns: Which column holds the labels.
        labels: A file of labels; it outranks the column.
        batch: Rows per sample where the model leaves the batch free.
        batch_axes: What the user says of the batch axes.

    Raises:
        InputError: The file is malformed or too large, or its columns do not fit the model.
    """
    rows = csv_rows(path)
    line, first = next(rows, (0, []))
    if not first:
        raise InputError(f"{path} is empty", hint="write one line of names, and one line per sample")
    has_names = not all(map(_is_number, first))
    names = first if has_names else []
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are called '{name}'")
    label = label_position(names, inputs, columns, str(path)) if labels is None else _position(names, columns.label)
    feeds = _feeds(inputs, names, len(first), label, path)
    kept = _Kept(feeds, label, len(first), path)
    for number, row in rows if has_names else chain([(line, first)], rows):
        kept.add(number, row)
    arrays = kept.arrays()
    if label is not None and labels is None:
        key = next((key for key in LABEL_KEYS if key not in arrays), None)
        if key is None:
            raise InputError(f"the model's inputs are called {' and '.join(LABEL_KEYS)}", hint="use --labels FILE")
        arrays[key] = kept.labels()
    dataset = from_memory(source, arrays, inputs, labels=labels, batch=batch, batch_axes=batch_axes)
    used = {label, *(position for feed in feeds for position in feed.columns)}
    spare = [name for position, name in enumerate(names) if position not in used]
    ignored = [f"column '{name}' is not an input of the model: ignored" for name in spare[:_LISTED]]
    return dataclasses.replace(dataset, notes=(*dataset.notes, *ignored))


def label_position(names: Sequence[str], inputs: Sequence[TensorSpec], columns: Columns, where: str) -> int | None:
    """The position of the column that holds the labels; None where there is none.

    Raises:
        InputError: There is no column of the name that the user gave.
    """
    if columns.label is None:
        known = {spec.name for spec in inputs}
        return next((names.index(key) for key in LABEL_KEYS if key in names and key not in known), None)
    if columns.label not in names and columns.require_label:
        note = f"columns: {', '.join(names[:20])}" if names else "its first line holds numbers, not names"
        hint = did_you_mean(columns.label, names)
        raise InputError(f"{where} has no column '{columns.label}'", note=note, hint=hint)
    return _position(names, columns.label)


def _position(names: Sequence[str], name: str | None) -> int | None:
    return names.index(name) if name is not None and name in names else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _feeds(
    inputs: Sequence[TensorSpec], names: Sequence[str], n_columns: int, label: int | None, path: Path
) -> list[_Feed]:
    """Which columns feed which input."""
    named = {spec.name: found for spec in inputs if (found := _named(spec, names))}
    used = {label, *chain.from_iterable(named.values())}
    rest = tuple(position for position in range(n_columns) if position not in used)
    missing = [spec.name for spec in inputs if spec.name not in named]
    if len(missing) > 1 or (missing and not rest):
        raise InputError(
            f"{path} has no column for the model's input '{missing[0]}'",
            note=f"columns: {', '.join(names[:20]) or n_columns}; the model's inputs are {'; '.join(map(str, inputs))}",
            hint=did_you_mean(missing[0], names) or f"name a column '{missing[0]}', or several '{missing[0]}[0]' …",
        )
    feeds = []
    for spec in inputs:
        columns = named.get(spec.name, rest)
        shape = _row_shape(spec, len(columns))
        if shape is None:
            wanted = "as many columns as a row of it has numbers"
            raise InputError(
                f"{path}: {len(columns)} columns do not make a row of the model's input {spec}",
                note=f"columns: {', '.join(names[position] for position in columns[:20])}" if names else None,
                hint=f"give {wanted}; --label-column NAME says which column holds the labels",
            )
        feeds.append(_Feed(spec, columns, shape))
    return feeds


def _named(spec: TensorSpec, names: Sequence[str]) -> tuple[int, ...]:
    if spec.name in names:
        return (names.index(spec.name),)
    found: list[int] = []
    while (name := f"{spec.name}[{len(found)}]") in names:
        found.append(names.index(name))
    return tuple(found)


def _row_shape(spec: TensorSpec, n_columns: int) -> tuple[int, ...] | None:
    """The shape of a row of an input that has so many numbers; None where there is none."""
    if spec.shape is None:
        return (n_columns,)
    sizes = [fixed_size(size) for size in spec.shape[1:]]
    known = math.prod(size for size in sizes if size is not None)
    if None not in sizes:
        return tuple(size or 0 for size in sizes) if known == n_columns else None
    if sizes.count(None) > 1 or not known or n_columns % known:
        return None
    return tuple(n_columns // known if size is None else size for size in sizes)


class _Kept:
    """The cells of a table that are used: numbers as they are read, text as it is."""

    def __init__(self, feeds: Sequence[_Feed], label: int | None, width: int, path: Path) -> None:
        self._feeds = feeds
        self._label = label
        self._width = width
        self._path = path
        # Integers stay integers: a float holds them up to 2^53 only.
        self._numbers: list[array[float]] = [array("d" if holds_floats(feed.spec) else "q") for feed in feeds]
        self._texts: list[list[str]] = [[] for _ in feeds]
        self._labels: list[str] = []
        self._n_cells = 0
        self._n_characters = 0
        for feed in feeds:
            numpy_dtype(feed.spec)

    def add(self, line: int, row: Sequence[str]) -> None:
        """Take in a row."""
        where = f"{self._path}, line {line}"
        if len(row) != self._width:
            raise InputError(f"{where}: {len(row)} cells, the first line has {self._width}")
        for feed, numbers, texts in zip(self._feeds, self._numbers, self._texts, strict=True):
            cells = [row[position] for position in feed.columns]
            self._n_cells += len(cells)
            if feed.spec.dtype == "string":
                texts.extend(cells)
                self._n_characters += sum(map(len, cells))
            else:
                try:
                    numbers.extend(self._read(cells, feed.spec, where))
                except OverflowError:
                    raise InputError(f"{where}: a number is too large for '{feed.spec.name}'") from None
        if self._label is not None:
            self._labels.append(row[self._label])
            self._n_cells += 1
            self._n_characters += len(row[self._label])
        if self._n_cells > MAX_CELLS or 4 * self._n_characters > _MAX_TEXT_BYTES:
            raise InputError(f"{self._path} is too large", note=f"the limit is {MAX_CELLS:,} cells", hint="use a .npz")

    def _read(self, cells: Sequence[str], spec: TensorSpec, where: str) -> Iterator[float]:
        for cell in cells:
            try:
                if spec.dtype == "bool":
                    yield _TRUTHS[cell.lower()]
                else:
                    yield float(cell) if holds_floats(spec) else int(cell)
            except (ValueError, KeyError):
                what = "an empty cell" if not cell else f"'{cell[:40]}'"
                raise InputError(f"{where}: {what} is no {spec.dtype}, which the input '{spec.name}' wants") from None

    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs, by name: one row per line.

        Raises:
            InputError: A number does not fit the type of its input, or the text takes too much memory.
        """
        found: dict[str, np.ndarray] = {}
        for feed, numbers, texts in zip(self._feeds, self._numbers, self._texts, strict=True):
            if feed.spec.dtype == "string":
                longest = max(map(len, texts), default=0)
                if 4 * longest * len(texts) > _MAX_TEXT_BYTES:
                    raise InputError(f"{self._path}: the text for '{feed.spec.name}' is too long")
                found[feed.spec.name] = np.array(texts, np.str_).reshape(-1, *feed.shape)
                continue
            values = np.array(numbers)
            dtype = numpy_dtype(feed.spec)
            if dtype.kind in "iu" and values.size:
                limits = np.iinfo(dtype)
                if values.min() < limits.min or values.max() > limits.max:
                    raise InputError(f"{self._path}: a number is too large for '{feed.spec.name}', {feed.spec.dtype}")
            with np.errstate(over="ignore"):  # what becomes infinite is refused where it is fed
                found[feed.spec.name] = values.astype(dtype).reshape(-1, *feed.shape)
        return found

    def labels(self) -> np.ndarray:
        """The labels, one per row."""
        return label_array(self._labels)
