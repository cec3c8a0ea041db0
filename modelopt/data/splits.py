"""Parts of a data set: a seeded draw, a held-out split, and what two data sets share."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelopt.core.errors import InputError
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.user_files import digest_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset(Dataset):
    """Some samples of another data set, in its order."""

    parent: Dataset
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """These samples of the parent, counted within the subset."""
        return self.parent.select(self.indices[index] for index in indices)

    def digest(self) -> str:
        """SHA-256 (hex) over the parent and the positions."""
        return digest_of([self.parent.digest(), repr(self.indices)])


def _subset(parent: Dataset, indices: Iterable[int]) -> Subset:
    return Subset(
        source=parent.source,
        has_labels=parent.has_labels,
        dropped=parent.dropped,
        notes=parent.notes,
        guesses=parent.guesses,
        parent=parent,
        indices=tuple(sorted(int(index) for index in indices)),
    )


def draw(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """At most ``limit`` samples, drawn without replacement and kept in order: sorted files are sorted by class.

    Raises:
        InputError: ``limit`` is below 1, or the seed is negative.
    """
    if limit < 1:
        raise InputError(f"a limit of {limit} samples leaves nothing", hint="the limit is at least 1")
    if limit >= len(dataset):
        return dataset
    return _subset(dataset, _rng(seed).choice(len(dataset), size=limit, replace=False))


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """A held-out split: ``(rest, held_out)``, where ``held_out`` has ``round(fraction * n)`` samples.

    The two share no position; samples that are equal in the data may still lie on both sides (see `overlap`).

    Raises:
        InputError: The fraction leaves one side empty, or the seed is negative.
    """
    n = len(dataset)
    held = round(n * fraction) if 0 < fraction < 1 else 0
    if not 0 < held < n:
        raise InputError(
            f"holding out {fraction} of {n} samples leaves one side empty",
            hint="give more samples, or a fraction nearer to 0.5",
        )
    order = _rng(seed).permutation(n)
    return _subset(dataset, order[held:]), _subset(dataset, order[:held])


def joined(first: Dataset, second: Dataset) -> Dataset:
    """The samples of two parts of one data set, as `split` and `draw` give them, in its order.

    Raises:
        ValueError: They are parts of different data sets.
    """
    parent, indices = _places(first)
    other, more = _places(second)
    if parent is not other:
        raise ValueError("parts of different data sets cannot be joined")
    return _subset(parent, {*indices, *more})


def _places(part: Dataset) -> tuple[Dataset, Sequence[int]]:
    """The whole data set that this is a part of, and where its samples are there."""
    if not isinstance(part, Subset):
        return part, range(len(part))
    parent, indices = _places(part.parent)
    return parent, [indices[index] for index in part.indices]


def overlap(a: Dataset, b: Dataset, limit: int = 2000) -> int:
    """How many of the first ``limit`` samples of ``b`` have the same feeds as one of the first ``limit`` of ``a``.

    Feeds are equal when names, dtypes, shapes and bytes are: data cut into different batches shares nothing.
    """
    known = {feeds_hash(sample) for sample in itertools.islice(a, limit)}
    return sum(feeds_hash(sample) in known for sample in itertools.islice(b, limit))


def feeds_hash(sample: Sample) -> bytes:
    """SHA-256 over the names, types, shapes and values of a sample's feeds."""
    total = hashlib.sha256()
    for name in sorted(sample.feeds):
        array = sample.feeds[name]
        is_text = array.dtype.hasobject
        contents = repr(array.tolist()).encode("utf-8", "surrogatepass") if is_text else array.tobytes()
        total.update(hashlib.sha256(repr((name, array.dtype.name, array.shape)).encode()).digest())
        total.update(hashlib.sha256(contents).digest())
    return total.digest()


def _rng(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", hint="seeds are 0 or more")
    return np.random.default_rng(seed)
