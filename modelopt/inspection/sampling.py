"""Reading a bounded part of the weights: zeros, and tensors that are stored twice.

Weights are mapped files, so what is read counts as memory of this process. Linux maps 64 KiB around each byte that is
read, so the budgets below count blocks of 64 KiB.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from modelopt.core.errors import InputError
from modelopt.graph.types import FLOAT8, FLOATS
from modelopt.inspection.data import Sparsity
from modelopt.io import mmap_files

SPARSITY_BYTES = 64 * 2**20
"""At most so much is read to count zeros."""

DUPLICATE_BYTES = 64 * 2**20
"""At most so much is read to find duplicates."""

_BLOCK_BYTES = 64 * 2**10
_END_BYTES = 4 * 2**10
_SIGNED_ZERO_FLOATS = FLOATS | {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2}
_COUNTABLE = FLOATS | FLOAT8


def sparsity(tensors: Iterable[ir.TensorProtocol], *, budget_bytes: int = SPARSITY_BYTES) -> Sparsity:
    """Count zeros, +0 and -0, in floating-point tensors of 8 bits and more.

    All is read where it fits in the budget. Otherwise every k-th block of 64 KiB is read, counted
    through all tensors in a row: the same model gives the same number.
    """
    flats = [(tensor.dtype, array(tensor).reshape(-1)) for tensor in tensors if tensor.dtype in _COUNTABLE]
    stride = 1
    if sum(flat.nbytes for _, flat in flats) > budget_bytes:
        stride = -(-sum(_blocks(flat) for _, flat in flats) // max(1, budget_bytes // _BLOCK_BYTES))
    chosen = [(dtype, block) for dtype, flat, first in _placed(flats, stride) for block in _every(flat, first, stride)]
    with mmap_files.random_access(block for _, block in chosen):
        for _, block in chosen:
            mmap_files.prefetch(block)
        zeros = sum(_zeros(dtype, block) for dtype, block in chosen)
    return Sparsity(
        zeros=zeros,
        read_elements=sum(block.size for _, block in chosen),
        all_elements=sum(flat.size for _, flat in flats),
    )


def _blocks(flat: np.ndarray) -> int:
    return -(-flat.nbytes // _BLOCK_BYTES)


def _placed(
    flats: Iterable[tuple[ir.DataType, np.ndarray]], stride: int
) -> Iterator[tuple[ir.DataType, np.ndarray, int]]:
    """Each array with its first block that is a multiple of `stride` in the row of all blocks."""
    position = 0
    for dtype, flat in flats:
        yield dtype, flat, -position % stride
        position += _blocks(flat)


def _every(flat: np.ndarray, first: int, stride: int) -> Iterator[np.ndarray]:
    """Blocks `first`, `first` + `stride` … of an array."""
    length = _BLOCK_BYTES // flat.itemsize
    for start in range(first * length, flat.size, stride * length):
        yield flat[start : start + length]


def _zeros(dtype: ir.DataType, block: np.ndarray) -> int:
    unsigned = np.dtype(f"u{block.itemsize}")
    bits = block.view(unsigned)
    if dtype in _SIGNED_ZERO_FLOATS:
        bits = bits & unsigned.type(2 ** (8 * block.itemsize - 1) - 1)
    return bits.size - int(np.count_nonzero(bits))


def array(tensor: ir.TensorProtocol) -> np.ndarray:
    """The tensor's array, a view of the mapped file where it is one.

    Raises:
        InputError: The stored bytes do not fit the tensor's shape and type.
    """
    try:
        return tensor.numpy()
    except (ValueError, TypeError) as error:
        raise InputError(f"the tensor '{tensor.name}' cannot be read", note=str(error)) from None


def duplicates(tensors: Iterable[ir.TensorProtocol], *, budget_bytes: int = DUPLICATE_BYTES) -> tuple[int, int]:
    """Bytes stored more than once.

    Only tensors that share shape and dtype are looked at, the largest first, and only while the budget lasts.

    Returns:
        Bytes of repeated tensors that were compared whole, and of tensors whose first and last bytes are those of
        another, where comparing the rest would exceed the budget.
    """
    budget = _Budget(budget_bytes)
    groups = sorted(_groups(tensors, _kind), key=lambda group: -group[0].nbytes)
    exact = likely = 0
    with mmap_files.random_access(array(tensor) for group in groups for tensor in group):
        for alike in (alike for group in groups for alike in _agree_at_ends(group, budget)):
            size = alike[0].nbytes
            if not budget.take(size * len(alike)):
                likely += size * (len(alike) - 1)
                continue
            exact += sum(size * (len(same) - 1) for same in _groups(alike, _digest))
    return exact, likely


class _Budget:
    def __init__(self, left_bytes: int) -> None:
        self._left_bytes = left_bytes

    def take(self, size_bytes: int) -> bool:
        """Whether so much may still be read; if so it is used up."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True


def _agree_at_ends(group: Sequence[ir.TensorProtocol], budget: _Budget) -> list[list[ir.TensorProtocol]]:
    cost = min(group[0].nbytes, 2 * _BLOCK_BYTES) * len(group)
    return _groups(group, _ends) if budget.take(cost) else []


def _kind(tensor: ir.TensorProtocol) -> Hashable:
    """Dtype and shape; strings and packed numbers form no group: they would have to be unpacked to be compared."""
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
        return id(tensor)
    return tensor.dtype, tuple(tensor.shape.numpy())


def _ends(tensor: ir.TensorProtocol) -> Hashable:
    data = _bytes(tensor)
    return data[:_END_BYTES].tobytes(), data[-_END_BYTES:].tobytes()


def _digest(tensor: ir.TensorProtocol) -> Hashable:
    data = _bytes(tensor)
    mmap_files.prefetch(data)
    return hashlib.blake2b(data.data, digest_size=32).digest()


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray:
    return array(tensor).reshape(-1).view(np.uint8)


def _groups(
    tensors: Iterable[ir.TensorProtocol], key: Callable[[ir.TensorProtocol], Hashable]
) -> list[list[ir.TensorProtocol]]:
    """Those that share a key with another, in order."""
    found: dict[Hashable, list[ir.TensorProtocol]] = defaultdict(list)
    for tensor in tensors:
        found[key(tensor)].append(tensor)
    return [group for group in found.values() if len(group) > 1]
