"""Block-wise quantization of weights: a scale and a zero point for each block of consecutive inputs; numbers only.

A weight is a matrix of shape ``(N, K)``, a row for each output. Each run of `block` columns shares a scale and an
integer zero point, and w is read back as ``(q - zero_point) · scale`` with q in ``[0, 2^bits)``, as onnxruntime's
MatMulNBits and ONNX's blocked DequantizeLinear do. The last block of a row may be shorter; it is packed with zeros
behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modelopt.quant.numerics import scheme

_CHUNK = 2**17  # elements computed at once, so that temporaries fit in the cache and memory does not grow
_SHRINKS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of the full range, tried for the least error: a choice


@dataclass(frozen=True)
class BlockGrid:
    """The integers that may be used, and how many weights share a scale.

    Attributes:
        bits: 2, 4 or 8.
        block: Columns that share a scale.
        symmetric: The zero point is the middle of the integers; else each block has its own.
    """

    bits: int
    block: int
    symmetric: bool

    @property
    def high(self) -> int:
        """The largest integer; the smallest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric blocks."""
        return 1 << (self.bits - 1)

    def blocks(self, width: int) -> int:
        """How many blocks a row of `width` columns has."""
        return -(-width // self.block)


@dataclass(frozen=True, eq=False)
class BlockParams:
    """How one matrix is quantized.

    Attributes:
        scale: float32, positive and normal, shape ``(N, B)``.
        zero_point: uint8, shape ``(N, B)``.
    """

    scale: np.ndarray
    zero_point: np.ndarray


def params_of(weight: np.ndarray, grid: BlockGrid, *, clip: bool = False) -> BlockParams:
    """Scales and zero points that cover the extremes of each block, and zero, which is exactly representable.

    Args:
        weight: Finite float32, shape ``(N, K)``.
        grid: The integers to use.
        clip: Try narrower ranges too, and keep for each block the one with the least squared error.
    """
    parts = [_params(chunk, grid, clip=clip) for chunk in _chunks(weight, grid)]
    if not parts:
        return BlockParams(np.ones((0, 0), np.float32), np.zeros((0, 0), np.uint8))
    scale, zero_point = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return BlockParams(scale, zero_point)


def quantize(weight: np.ndarray, params: BlockParams, grid: BlockGrid) -> np.ndarray:
    """The integers: uint8, shape ``(N, K)``. Inside a block's range |w - dequantize(q)| <= scale / 2."""
    integers = np.empty(weight.shape, np.uint8)
    for rows, chunk in zip(_row_slices(weight.shape), _chunks(weight, grid), strict=True):
        steps = rounded(chunk, params.scale[rows, :, None], params.zero_point[rows, :, None], grid)
        integers[rows] = steps.reshape(len(chunk), -1)[:, : weight.shape[1]]
    return integers


def rounded(blocks: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: BlockGrid) -> np.ndarray:
    """The nearest integers of the grid, as float32.

    Args:
        blocks: float32, shape ``(N, B, block)``.
        scale: Shape ``(N, B, 1)``.
        zero_point: Shape ``(N, B, 1)``.
        grid: The integers.
    """
    steps = blocks / scale
    steps += zero_point
    np.rint(steps, out=steps)
    return np.asarray(np.clip(steps, 0, grid.high, out=steps))


def dequantize(integers: np.ndarray, params: BlockParams, grid: BlockGrid) -> np.ndarray:
    """The float32 numbers that `integers` stand for, shape ``(N, K)``."""
    width = integers.shape[1]
    scale, zero_point = (np.repeat(a, grid.block, axis=1)[:, :width] for a in (params.scale, params.zero_point))
    return np.asarray((integers.astype(np.float32) - zero_point) * scale, np.float32)


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Several integers to a byte along the last axis, the first in the lowest bits, zeros behind.

    Args:
        integers: uint8, below 2^bits, shape ``(..., L)``.
        bits: 2, 4 or 8.

    Returns:
        uint8, shape ``(..., ceil(L · bits / 8))``.
    """
    each = 8 // bits
    missing = -integers.shape[-1] % each
    if missing:
        integers = np.concatenate([integers, np.zeros((*integers.shape[:-1], missing), np.uint8)], axis=-1)
    packed = integers[..., ::each].copy()
    for i in range(1, each):
        packed |= integers[..., i::each] << np.uint8(i * bits)
    return packed


def pack_blocks(integers: np.ndarray, grid: BlockGrid) -> np.ndarray:
    """The weight input of MatMulNBits: uint8, shape ``(N, B, block · bits / 8)``, from integers of shape ``(N, K)``."""
    rows, width = integers.shape
    packed = pack(integers, grid.bits)
    missing = grid.blocks(width) * grid.block * grid.bits // 8 - packed.shape[1]
    if missing:
        packed = np.concatenate([packed, np.zeros((rows, missing), np.uint8)], axis=1)
    return packed.reshape(rows, grid.blocks(width), -1)


def chunks_of(weight: np.ndarray, grid: BlockGrid) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs of rows, each as float32 of shape ``(n, B, block)`` with zeros behind the last column."""
    yield from zip(_row_slices(weight.shape), _chunks(weight, grid), strict=True)


def _row_slices(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _CHUNK // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _chunks(weight: np.ndarray, grid: BlockGrid) -> Iterator[np.ndarray]:
    width = weight.shape[1]
    whole = grid.blocks(width) * grid.block
    for rows in _row_slices(weight.shape):
        part = np.zeros((rows.stop - rows.start, whole), np.float32)
        part[:, :width] = weight[rows]
        yield part.reshape(len(part), -1, grid.block)


def _params(blocks: np.ndarray, grid: BlockGrid, *, clip: bool) -> tuple[np.ndarray, np.ndarray]:
    low = np.minimum(blocks.min(axis=2), 0).astype(np.float64)
    high = np.maximum(blocks.max(axis=2), 0).astype(np.float64)
    scale, zero_point = _from_range(low, high, grid)
    if not clip:
        return scale, zero_point
    least = _squared_error(blocks, scale, zero_point, grid)
    for shrink in _SHRINKS:
        narrow = _from_range(low * shrink, high * shrink, grid)
        error = _squared_error(blocks, *narrow, grid)
        better = error < least
        least = np.where(better, error, least)
        scale, zero_point = (np.where(better, new, old) for new, old in zip(narrow, (scale, zero_point), strict=True))
    return scale, zero_point


def _from_range(low: np.ndarray, high: np.ndarray, grid: BlockGrid) -> tuple[np.ndarray, np.ndarray]:
    if grid.symmetric:
        wide, steps = np.maximum(-low, high), grid.high - grid.middle
    else:
        wide, steps = high - low, grid.high
    scale = scheme.as_scale(np.where(wide > 0, wide / steps, 1.0))
    if grid.symmetric:
        return scale, np.full(scale.shape, grid.middle, np.uint8)
    return scale, np.asarray(np.clip(np.rint(-low / scale), 0, grid.high), np.uint8)


def _squared_error(blocks: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: BlockGrid) -> np.ndarray:
    """In steps of 1 times the scale squared: float64, shape ``(N, B)``."""
    steps = rounded(blocks, scale[:, :, None], zero_point[:, :, None], grid)
    steps -= zero_point[:, :, None]
    steps *= scale[:, :, None]
    steps -= blocks
    return np.asarray(np.einsum("nbk,nbk->nb", steps, steps, dtype=np.float64))
