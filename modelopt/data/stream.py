"""Samples that come one after another, from a function or an iterable: their number is known at the end."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data.check import checked_feeds
from modelopt.data.dataset import Dataset, Sample

MAX_SAMPLES = 1_000_000
"""Where samples that never end are stopped when the user gives no limit."""

SHAPE_HINT = "yield {input name: array}, or ({input name: array}, label)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream(Dataset):
    """Feeds that are produced anew for every pass over the data.

    Attributes:
        inputs: The model's.
        limit: At most so many samples: the first ones.
        allow_nonfinite: Accept NaN and Inf.
    """

    inputs: tuple[TensorSpec, ...]
    limit: int | None
    allow_nonfinite: bool

    @abstractmethod
    def items(self) -> Iterator[object]:
        """Feeds, or feeds with a label, from the first on."""

    @cached_property
    def _length(self) -> int:
        return sum(1 for _ in self)

    def __len__(self) -> int:
        """The number of samples, counted by one pass over them."""
        return self._length

    def __iter__(self) -> Iterator[Sample]:
        for index, item in enumerate(itertools.islice(self.items(), self.limit)):
            if index == MAX_SAMPLES:
                raise InputError(
                    f"{self.source} does not end", note=f"{MAX_SAMPLES} samples so far", hint="set a limit"
                )
            name = f"{self.source}[{index}]"
            feeds, label = unpack(item, name)
            checked = checked_feeds(self.inputs, feeds, name, allow_nonfinite=self.allow_nonfinite)
            if (label is not None) != self.has_labels:
                raise InputError(f"{name}: some samples have a label, some have none")
            yield Sample(checked, label, name)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples at these ascending positions; those between are produced and passed over.

        Raises:
            IndexError: The positions do not ascend, or there are not that many samples.
        """
        samples = iter(self)
        passed = 0
        for index in indices:
            sample = next(itertools.islice(samples, index - passed, None), None) if index >= passed else None
            if sample is None:
                raise IndexError(index)
            passed = index + 1
            yield sample


def unpack(item: object, name: str) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
    """Feeds and label of one item that a user's code gives.

    Raises:
        InputError: It is neither feeds nor feeds with a label.
    """
    feeds, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if not isinstance(feeds, Mapping):
        raise InputError(f"{name} is a {type(feeds).__name__}, not feeds", hint=SHAPE_HINT)
    for key, value in feeds.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray | np.generic):
            raise InputError(
                f"{name}: {key!r} is a {type(value).__name__}, not an array",
                hint="wrap it: np.array(value, dtype=…); a scalar is np.float32(value)",
            )
    return feeds, None if label is None else _label(label, name)


def _label(label: object, name: str) -> np.ndarray:
    try:
        array = np.array(label, order="C")
    except ValueError as error:  # a ragged list
        raise InputError(f"{name}: the label is no array", note=str(error)) from None
    if array.dtype.hasobject:
        raise InputError(f"{name}: the label is a {type(label).__name__}, not numbers or strings")
    return array
