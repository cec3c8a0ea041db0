"""Samples that a Python program holds in memory: arrays, or an iterable of feeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.arrays import from_memory
from modelopt.data.batch_axis import BatchAxes
from modelopt.data.check import check_inputs
from modelopt.data.dataset import Dataset
from modelopt.data.splits import draw, feeds_hash
from modelopt.data.stream import Stream, unpack

Feeds = Mapping[str, np.ndarray]
"""One array for each input of the model, by the input's name."""

MemoryData = np.ndarray | Feeds | Iterable[np.ndarray | Feeds | tuple[np.ndarray | Feeds, object]]
"""Data in memory: one array for a model with one input, or a dict of arrays, which hold the samples along the batch
axis as the arrays of a ``.npz`` do (``label`` holds the labels); or an iterable, each item of which is one feed, a feed
with its label, or the one array of a model with one input. An iterator is kept in memory; anything else that can be
iterated is iterated anew for each pass over the data, and must give the same items each time."""

DataLike = str | os.PathLike[str] | MemoryData
"""What the command line takes (a path, ``file.py:function``, ``random``), or data in memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedsDataset(Stream):
    """The items of an iterable, each a feed."""

    feeds: Iterable[object]

    def items(self) -> Iterator[object]:
        """The items; a bare array is the feed of the only input."""
        return (_named(item, self.inputs) for item in self.feeds)

    def digest(self) -> str:
        """SHA-256 (hex) over all feeds and labels."""
        return user_files.digest_of(["feeds", *map(str, self.inputs), *self._parts()])

    def _parts(self) -> Iterator[str]:
        for sample in self:
            yield feeds_hash(sample).hex()
            if sample.label is not None:
                yield user_files.array_digest(sample.label)


def repeatable(data: MemoryData) -> MemoryData:
    """The data, with the items of an iterator in a tuple: they are read more than once."""
    return tuple(data) if isinstance(data, Iterator) else data


def open_memory(
    data: MemoryData,
    inputs: Sequence[TensorSpec],
    *,
    source: str,
    labels: Path | None = None,
    limit: int | None = None,
    batch: int = 1,
    seed: int = 0,
    batch_axes: BatchAxes | None = None,
) -> Dataset:
    """Samples from data in memory; the arguments are those of `modelopt.data.open_data`.

    Args:
        data: See `MemoryData`; no iterator: see `repeatable`.
        inputs: The model's inputs, in its order.
        source: How reports and errors call the data.
        labels: A file of labels, for arrays.
        limit: At most so many samples, drawn with ``seed``.
        batch: Rows per sample where the model leaves the batch free.
        seed: Seeds the draw.
        batch_axes: What the user says of the batch axes of arrays.

    Raises:
        InputError: The data are of no known kind, hold no sample, or do not fit the model.
        Refused: An input that is not a tensor, or strings that are not numpy unicode arrays.
    """
    inputs = tuple(inputs)
    check_inputs(inputs)
    dataset: Dataset
    if isinstance(data, np.ndarray):
        data = {_only(inputs).name: data}
    if isinstance(data, Mapping):
        dataset = from_memory(source, data, inputs, labels=labels, batch=batch, batch_axes=batch_axes)
    elif isinstance(data, Iterable):
        if labels is not None or (batch_axes is not None and batch_axes != BatchAxes({})):
            hint = "give each item as (feeds, label), and leave out batch axes"
            raise InputError(f"{source}: each item of an iterable is one feed", hint=hint)
        dataset = _stream(source, data, inputs)
    else:
        raise InputError(
            f"{source}: a {type(data).__name__} is not data",
            hint="give an array, a dict of arrays, an iterable of feeds, or a path",
        )
    return dataset if limit is None else draw(dataset, limit, seed)


def _stream(source: str, feeds: Iterable[object], inputs: tuple[TensorSpec, ...]) -> FeedsDataset:
    first = next(iter(feeds), None)
    if first is None:
        raise InputError(f"{source} holds no sample", hint="each item is {input name: array}")
    _, label = unpack(_named(first, inputs), f"{source}[0]")
    return FeedsDataset(
        source=source, has_labels=label is not None, inputs=inputs, limit=None, allow_nonfinite=False, feeds=feeds
    )


def _named(item: object, inputs: tuple[TensorSpec, ...]) -> object:
    """The item, with a bare array as the feed of the only input."""
    if isinstance(item, tuple) and len(item) == 2:
        return _named(item[0], inputs), item[1]
    return {_only(inputs).name: item} if isinstance(item, np.ndarray) else item


def _only(inputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The input of a model with one input.

    Raises:
        InputError: The model has several.
    """
    if len(inputs) == 1:
        return inputs[0]
    raise InputError(
        f"one array was given, the model has {len(inputs)} inputs",
        note=f"the model's inputs are {'; '.join(map(str, inputs))}",
        hint="give a dict of arrays by the inputs' names",
    )
