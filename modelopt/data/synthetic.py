"""Seeded random feeds, where the user has no data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import FIRST, Dim, TensorSpec, is_free, no_dimension, symbol_of, symbols_of
from modelopt.data import user_files
from modelopt.data.check import fixed_size
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.dtypes import holds_floats, numpy_dtype

DEFAULT_FREE_DIM = 8
"""The size of a free dimension that is not the batch and that the user does not name."""

NO_RANDOM = "give real data: a file or a folder"
"""The hint where random inputs cannot be made; who knows the command names its flag instead."""

Words = tuple[tuple[str, ...], ...]
"""What an input of strings is drawn from: a tuple for each place of its last axis, or one for all; empty: `_PLAIN`."""

NUMERALS: Words = (tuple("0123456789"),)
"""For inputs whose strings the model reads as numbers."""

_PLAIN = ("a", "b", "c", "word", "other words", "Upper", "2", "")

_LENGTHS = (8, 1, 32, 64, 128, 224, 16, 48)
_LONGER = (512, 256, 100, 3000, 1024)
_SIGNAL_LENGTHS = (512, 2048, 16_000, 576, 256, 1024, 4096, 48_000, 8000, 160_000)
_PICTURE_SIDES = (64, 224, 128, 32, 48, 16, 8, 1)


def lengths_to_try(inputs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Sizes for free dimensions that are not the batch, the likeliest first: a model may run on few of them."""
    if any(is_picture(spec) for spec in inputs):
        return _PICTURE_SIDES
    return (*_LENGTHS, *_SIGNAL_LENGTHS[:3]) if any(map(_may_be_signal, inputs)) else _LENGTHS


def long_lengths(inputs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """More of them, for models that run on none of `lengths_to_try`: frames, windows and whole recordings."""
    longer = _SIGNAL_LENGTHS if any(map(_may_be_signal, inputs)) else _LONGER
    return tuple(length for length in longer if length not in lengths_to_try(inputs))


def is_picture(spec: TensorSpec) -> bool:
    """Whether an input looks like pictures of any size: (batch, 1 to 4 channels, height, width), or channels last."""
    if spec.shape is None or len(spec.shape) != 4:
        return False
    _, *others = spec.shape
    return sum(map(is_free, others)) == 2 and any(isinstance(dim, int) and 1 <= dim <= 4 for dim in others)


def _may_be_signal(spec: TensorSpec) -> bool:
    """Whether an input may be a waveform, of which a window of a transform takes hundreds of values."""
    return holds_floats(spec) and bool(spec.shape) and is_free((spec.shape or (1,))[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomDataset(Dataset):
    """Sample ``i`` depends on the seed, on ``i``, and on the inputs' types and sizes: on nothing else."""

    inputs: tuple[TensorSpec, ...]
    shapes: tuple[tuple[int, ...], ...]
    n: int
    seed: int
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    words: Mapping[str, Words] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorSpec],
        shapes: tuple[tuple[int, ...], ...],
        *,
        n: int,
        seed: int,
        ranges: Mapping[str, tuple[int, int]],
        words: Mapping[str, Words],
    ) -> RandomDataset:
        """`n` samples of these shapes; see `random_data` for `ranges` and `words`."""
        return cls(
            source=f"random inputs, seed {seed}",
            has_labels=False,
            inputs=tuple(inputs),
            shapes=shapes,
            n=n,
            seed=seed,
            ranges=dict(ranges),
            words=dict(words),
        )

    def __len__(self) -> int:
        return self.n

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Draw these samples; each is the same whenever and in whatever order it is drawn."""
        for index in indices:
            if not 0 <= index < self.n:
                raise IndexError(index)
            rng = np.random.default_rng([self.seed, index])
            feeds = {
                spec.name: draw_words(rng, shape, self.words.get(spec.name, ()))
                if spec.dtype == "string"
                else _draw(rng, spec, shape, self.ranges.get(spec.name))
                for spec, shape in zip(self.inputs, self.shapes, strict=True)
            }
            yield Sample(feeds, None, f"random[{index}]")

    def digest(self) -> str:
        """SHA-256 (hex) over the number, the seed, the inputs and what they are drawn from."""
        drawn = repr(self.shapes), repr(sorted(self.ranges.items())), repr(sorted(self.words.items()))
        return user_files.digest_of([f"random n={self.n} seed={self.seed}", *map(str, self.inputs), *drawn])


def _draw(
    rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], ends: tuple[int, int] | None
) -> np.ndarray:
    dtype = numpy_dtype(spec)
    if ends is not None or not holds_floats(spec):
        low, high = ends or (0, 1)
        return np.array(rng.integers(low, high, shape, endpoint=True), dtype=dtype, order="C")
    values: np.ndarray = np.asarray(rng.standard_normal(shape))
    if spec.dtype.startswith("complex"):
        values = values + 1j * rng.standard_normal(shape)
    return np.array(values, dtype=dtype, order="C")


def draw_words(rng: np.random.Generator, shape: tuple[int, ...], words: Words) -> np.ndarray:
    """Random words, object[shape], of those that the input knows where there are some."""
    pools = [np.array(pool or _PLAIN, object) for pool in words or ((),)]
    if shape and shape[-1] == len(pools):
        return np.stack([rng.choice(pool, shape[:-1]) for pool in pools], axis=-1)
    return np.asarray(rng.choice(np.concatenate(pools), shape), object)


def random_data(
    inputs: Sequence[TensorSpec],
    *,
    n: int,
    seed: int,
    free_dims: Mapping[str, int] | None = None,
    batch: int = 1,
    free_dim: int = DEFAULT_FREE_DIM,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    words: Mapping[str, Words] | None = None,
) -> RandomDataset:
    """``n`` samples of noise: floats standard normal, integers and booleans 0 or 1, strings of a few plain words.

    Inputs named in ``ranges`` are integers between two ends, which are included: rows of the table that they index.
    Those named in ``words`` are strings of these.

    A symbolic dimension has one size wherever it appears: its size in ``free_dims``, else ``batch`` if it is the first
    axis of some input, else ``free_dim``. Unnamed free dimensions likewise by their axis.

    Raises:
        InputError: ``n`` or a size below 1, a negative seed, an unknown name in ``free_dims``, an input of unknown
            rank, or a sample larger than `MAX_ARRAY_BYTES`.
        Refused: An input that is not a tensor.
    """
    if n < 1 or batch < 1 or free_dim < 1 or seed < 0:
        raise InputError("random data needs n, batch and sizes >= 1 and seed >= 0", note=f"{n=}, {batch=}, {seed=}")
    shapes = shapes_of(inputs, free_dims=free_dims or {}, batch=batch, free_dim=free_dim)
    return RandomDataset.of(inputs, shapes, n=n, seed=seed, ranges=ranges or {}, words=words or {})


def shapes_of(
    inputs: Sequence[TensorSpec], *, free_dims: Mapping[str, int], batch: int, free_dim: int
) -> tuple[tuple[int, ...], ...]:
    """The shape of each input, with sizes for what is free: see `random_data`.

    Raises:
        InputError: An unknown name in ``free_dims``, an input of unknown rank, or one larger than
            `MAX_ARRAY_BYTES`.
        Refused: An input that is not a tensor.
    """
    sizes = _symbol_sizes(inputs, free_dims, batch, free_dim)
    return tuple(_shape(spec, sizes, batch, free_dim) for spec in inputs)


def _symbol_sizes(
    inputs: Sequence[TensorSpec], free_dims: Mapping[str, int], batch: int, free_dim: int
) -> dict[str, int]:
    # The batch's name keeps its size on whatever axis it stands.
    sizes = dict.fromkeys(symbols_of(inputs), free_dim) | dict.fromkeys(symbols_of(inputs, FIRST), batch)
    for name, size in free_dims.items():
        if name not in sizes:
            raise no_dimension(name, sizes, NO_RANDOM)
        if size < 1:
            raise InputError(f"the dimension '{name}' cannot be {size}", hint="sizes are at least 1")
    return {**sizes, **free_dims}


def _shape(spec: TensorSpec, sizes: Mapping[str, int], batch: int, free_dim: int) -> tuple[int, ...]:
    dtype = numpy_dtype(spec)
    if spec.shape is None:
        raise InputError(f"the rank of input '{spec.name}' is unknown", hint=NO_RANDOM)
    shape = tuple(_size(axis, dim, sizes, batch, free_dim) for axis, dim in enumerate(spec.shape))
    nbytes = math.prod(shape) * max(dtype.itemsize, 8)  # drawn as 64 bits
    if nbytes > user_files.MAX_ARRAY_BYTES:
        raise InputError(
            f"a random sample of '{spec.name}' is larger than memory should hold",
            note=f"{nbytes} bytes for {spec}, the limit is {user_files.MAX_ARRAY_BYTES}",
        )
    return shape


def _size(axis: int, dim: Dim, sizes: Mapping[str, int], batch: int, free_dim: int) -> int:
    if (symbol := symbol_of(dim)) is not None:
        return sizes[symbol]
    fixed = fixed_size(dim)
    if fixed is not None:
        return fixed
    return batch if axis == 0 else free_dim
