"""Reading a bounded part of the weights: zeros, and tensors that are stored twice.

Weights are mapped files: what is read counts as our memory. Linux maps 64 KiB around each byte that is touched, so
that is the unit in which reading is paid for here.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from modelopt.errors import InputError
from modelopt.inspection.data import Sparsity

SPARSITY_BYTES = 64 * 2**20
"""At most so much is read to count zeros."""

DUPLICATE_BYTES = 64 * 2**20
"""At most so much is read to find duplicates."""

_BLOCK_BYTES = 64 * 2**10
_END_BYTES = 4 * 2**10
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_SIGNED_ZERO_FLOATS = _FLOATS | {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2}
_COUNTABLE = _SIGNED_ZERO_FLOATS | {ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2FNUZ}


def sparsity(tensors: Iterable[ir.TensorProtocol], *, budget_bytes: int = SPARSITY_BYTES) -> Sparsity:
    """Count zeros, +0 and -0, in floating-point tensors of 8 bits and more.

    All is read where it fits in the budget. Otherwise the tensors are thought of as one row of blocks of 64 KiB, of
    which every k-th is read: the same model gives the same number.
    """
    floats = [tensor for tensor in tensors if tensor.dtype in _COUNTABLE and tensor.size]
    stride = 1
    if sum(tensor.nbytes for tensor in floats) > budget_bytes:
        stride = -(-sum(_blocks(tensor) for tensor in floats) // max(1, budget_bytes // _BLOCK_BYTES))
    zeros = read = position = 0
    for tensor in floats:
        first = -position % stride
        position += _blocks(tensor)
        for bits in _every_block(tensor, first, stride):
            zeros += bits.size - int(np.count_nonzero(bits))
            read += bits.size
    return Sparsity(zeros=zeros, read_elements=read, all_elements=sum(tensor.size for tensor in floats))


def _blocks(tensor: ir.TensorProtocol) -> int:
    return -(-tensor.nbytes // _BLOCK_BYTES)


def _every_block(tensor: ir.TensorProtocol, first: int, stride: int) -> Iterator[np.ndarray]:
    """Blocks `first`, `first` + `stride` … as integers that are 0 where the number is ±0."""
    if first >= _blocks(tensor):
        return
    flat = array(tensor).reshape(-1)
    unsigned = np.dtype(f"u{flat.itemsize}")
    signless = unsigned.type(2 ** (8 * flat.itemsize - 1) - 1)
    length = _BLOCK_BYTES // flat.itemsize
    for start in range(first * length, flat.size, stride * length):
        bits = flat[start : start + length].view(unsigned)
        yield bits & signless if tensor.dtype in _SIGNED_ZERO_FLOATS else bits


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
        Bytes in tensors whose twins were compared whole, and in tensors that agree with a twin at both ends where
        reading on would exceed the budget.
    """
    budget = _Budget(budget_bytes)
    exact = likely = 0
    for group in sorted(_groups(tensors, _kind), key=lambda group: -group[0].nbytes):
        for twins in _agree_at_ends(group, budget):
            size = twins[0].nbytes
            if not budget.take(size * len(twins)):
                likely += size * (len(twins) - 1)
                continue
            exact += sum(size * (len(same) - 1) for same in _groups(twins, _digest))
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
    """Dtype and shape; strings and packed numbers are like no other: reading them means unpacking them."""
    if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
        return id(tensor)
    return tensor.dtype, tuple(tensor.shape.numpy())


def _ends(tensor: ir.TensorProtocol) -> Hashable:
    data = _bytes(tensor)
    return bytes(data[:_END_BYTES]), bytes(data[-_END_BYTES:])


def _digest(tensor: ir.TensorProtocol) -> Hashable:
    return hashlib.blake2b(_bytes(tensor), digest_size=32).digest()


def _bytes(tensor: ir.TensorProtocol) -> memoryview:
    flat = array(tensor).reshape(-1)
    return memoryview(flat.view(np.uint8)) if flat.size else memoryview(b"")


def _groups(
    tensors: Iterable[ir.TensorProtocol], key: Callable[[ir.TensorProtocol], Hashable]
) -> list[list[ir.TensorProtocol]]:
    """Those that share a key with another, in order."""
    found: dict[Hashable, list[ir.TensorProtocol]] = defaultdict(list)
    for tensor in tensors:
        found[key(tensor)].append(tensor)
    return [group for group in found.values() if len(group) > 1]
