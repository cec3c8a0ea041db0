"""Saturation on x86 without VNNI: ``vpmaddubsw`` adds two u8 × s8 products in 16 bits and saturates.

onnxruntime's kernels for such machines (QgemmU8S8KernelAvx2, ConvSymKernelAvx2, those for AVX512 without VNNI) go
through the depth of a product in pairs, (0, 1), (2, 3) …. They saturate the sum of each pair to int16, and add these
sums in 32 bits. The depth of a convolution is ordered by kernel position first and channel last. Depthwise kernels
multiply in 16 bits and are exact; so is u8 × u8.

A u8 is at most 255. So a pair cannot saturate if its positive weights sum up to 128 or less, and its negative weights
to -128 or more. This bound is exact, and needs no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.numerics import scheme
from modelopt.quant.numerics.scheme import IntType, QParams

MOST = 128  # 255 · 128 = 32640 fits in int16, 255 · 129 = 32895 does not
_INT16 = (-(2**15), 2**15 - 1)
_CHUNK = 2**21  # pair sums held at once


@dataclass(frozen=True)
class Saturation:
    """The error that saturation makes; the errors of several samples can be added.

    Attributes:
        sums: How many pair sums were computed.
        saturated: How many of them do not fit in 16 bits.
        lost: Sum of the squared errors of the results.
        exact: Sum of the squares of the exact results, with the zero point subtracted.
    """

    sums: int = 0
    saturated: int = 0
    lost: float = 0.0
    exact: float = 0.0

    def __add__(self, other: Saturation) -> Saturation:
        return Saturation(
            self.sums + other.sums, self.saturated + other.saturated, self.lost + other.lost, self.exact + other.exact
        )

    @property
    def share(self) -> float:
        """The share of saturated pair sums."""
        return self.saturated / self.sums if self.sums else 0.0

    @property
    def relative_error(self) -> float:
        """Root mean square of the errors over that of the exact results; infinite where those are all zero."""
        if not self.lost:
            return 0.0
        return math.sqrt(self.lost / self.exact) if self.exact else math.inf


def matrices_of(node: ir.Node, shape: tuple[int, ...]) -> Callable[[np.ndarray], Iterable[np.ndarray]] | None:
    """How to arrange the weight of a Conv, Gemm or MatMul as a kernel multiplies by it; None for one that is exact.

    Args:
        node: The kernel.
        shape: Its weight's.
    """
    if node.op_type == "Gemm":
        return (lambda array: [array.T]) if graph.attribute_int(node, "transB", 0) else stack
    if node.op_type == "MatMul":
        return stack
    groups = graph.attribute_int(node, "group", 1)
    depthwise = shape[1] == 1 and shape[0] == groups
    return None if depthwise else partial(conv_matrices, groups=groups)


def stack(array: np.ndarray) -> Iterator[np.ndarray]:
    """The matrices (depth, columns) of a MatMul's weight of any rank; a vector is one column."""
    if array.ndim == 1:
        yield array.reshape(-1, 1)
    else:
        yield from array.reshape(-1, *array.shape[-2:])


def conv_matrices(kernel: np.ndarray, groups: int) -> list[np.ndarray]:
    """The matrices (positions · channels, outputs) that an integer convolution multiplies by, one per group.

    Args:
        kernel: (outputs, channels per group, k…), any dtype.
        groups: How many groups.
    """
    outputs, channels = kernel.shape[:2]
    flat = np.moveaxis(kernel.reshape(outputs, channels, -1), 1, 2).reshape(outputs, -1)
    return [part.T for part in np.split(flat, groups)]


def conv_rows(rows: np.ndarray, groups: int) -> list[np.ndarray]:
    """The rows (n, positions · channels) that meet `conv_matrices`, one array per group.

    Args:
        rows: Shape (n, channels, positions), as `im2col.rows` returns them.
        groups: How many groups.
    """
    positions_first = np.moveaxis(rows, 1, 2)
    return [part.reshape(len(part), -1) for part in np.split(positions_first, groups, axis=2)]


def worst_pairs(integers: np.ndarray) -> np.ndarray:
    """For each column the largest sum of the positive, or of the negative, weights of a pair, as an absolute value.

    Args:
        integers: int8, (depth, columns).

    Returns:
        int32, (columns,): up to `MOST` nothing saturates, whatever the input.
    """
    worst: np.ndarray = _bounds(_pairs(integers.astype(np.int32))).max(axis=0, initial=0)
    return worst


def fit_kernels(array: np.ndarray, params: QParams, nodes: Iterable[ir.Node]) -> QParams:
    """`fitted` to all the kernels that read a weight.

    Args:
        array: The float weight.
        params: Its parameters; only symmetric s8 saturates.
        nodes: The Conv, Gemm and MatMul that read it.
    """
    if params.grid.type is not IntType.S8:
        return params
    for node in nodes:
        matrices = matrices_of(node, array.shape)
        if matrices is None:
            continue
        # `first_convolution` may change the order of channels that are no multiple of four: then any two can be a pair.
        may_be_reordered = node.op_type == "Conv" and array.shape[1] % 4 != 0
        params = fitted(array, params, partial(_extremes, matrices) if may_be_reordered else matrices)
    return params


def _extremes(matrices: Callable[[np.ndarray], Iterable[np.ndarray]], integers: np.ndarray) -> list[np.ndarray]:
    """The two largest and the two smallest weights of each column: the worst pairs that any order could make."""
    columns = [np.sort(np.pad(matrix, ((0, 2), (0, 0))), axis=0) for matrix in matrices(integers)]
    return [np.concatenate([column[-2:], column[:2]]) for column in columns]


def fitted(array: np.ndarray, params: QParams, matrices: Callable[[np.ndarray], Iterable[np.ndarray]]) -> QParams:
    """Parameters with scales that are raised until no pair saturates, whatever the input.

    Args:
        array: The float weights.
        params: Symmetric parameters of `array`, per tensor or per output channel.
        matrices: The matrices (depth, columns) that a kernel multiplies by, of the integers of `array`; their columns
            together are the channels.
    """
    while True:
        integers = scheme.quantize(array, params)
        worst = np.concatenate([worst_pairs(matrix) for matrix in matrices(integers)])
        needed = np.maximum(worst / MOST, 1.0) if params.axis is not None else max(worst.max(initial=0) / MOST, 1.0)
        if np.all(needed == 1.0):
            return params
        # Rounding may leave a pair one above: then its scale grows by 1/128 again.
        params = replace(params, scale=np.asarray(params.scale * needed, np.float32))


def simulate(rows: np.ndarray, integers: np.ndarray, zero_point: int = 0) -> Saturation:
    """Multiply as ``vpmaddubsw`` does, and return the error.

    Only pairs whose bound is above `MOST` are multiplied out; the others cannot saturate.

    Args:
        rows: uint8, (rows, depth).
        integers: int8, (depth, columns).
        zero_point: Of the rows; the kernel corrects for it afterwards, so it changes `exact` only.
    """
    weights = _pairs(integers.astype(np.int32))
    inputs = _pairs(rows.T.astype(np.int32))
    pair, column = np.nonzero(_bounds(weights) > MOST)
    lost = np.zeros((integers.shape[1], len(rows)), np.int64)
    saturated = 0
    step = max(1, _CHUNK // max(len(rows), 1))
    for start in range(0, len(pair), step):
        p, c = pair[start : start + step], column[start : start + step]
        sums = np.einsum("jkr,jk->jr", inputs[p], weights[p, :, c])
        over = sums - np.clip(sums, *_INT16)
        saturated += int(np.count_nonzero(over))
        np.add.at(lost, c, over)
    exact = (rows.astype(np.float64) - zero_point) @ integers.astype(np.float64)
    return Saturation(
        weights.shape[0] * integers.shape[1] * len(rows),
        saturated,
        float(np.sum(lost.astype(np.float64) ** 2)),
        float(np.sum(exact**2)),
    )


def _bounds(pairs: np.ndarray) -> np.ndarray:
    """The larger of the sum of the positive and of the negative weights of each pair: (pairs, n) from (pairs, 2, n)."""
    return np.asarray(np.maximum(np.maximum(pairs, 0).sum(axis=1), -np.minimum(pairs, 0).sum(axis=1)))


def _pairs(matrix: np.ndarray) -> np.ndarray:
    """(depth, n) as (pairs, 2, n), with a row of zeros behind an odd depth."""
    padded = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    return padded.reshape(-1, 2, matrix.shape[1])
