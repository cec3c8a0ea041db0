"""Uniform affine quantization: the arithmetic only.

A real x is stored as the integer q = clip(round(x / scale) + zero_point, low, high), and read back as
(q - zero_point) * scale (Jacob et al. 2018, arXiv:1712.05877; ONNX QuantizeLinear rounds half to even).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32: runtimes flush what is below it to zero."""

_LARGEST_SCALE = float(np.finfo(np.float32).max)
_BIAS_LIMIT = 2**30  # half of int32: the other half is for the sum that the bias is added to
_DEAD_BIAS_STEPS = 2**20  # so that float32 holds bias / scale exactly, with bits to spare


class IntType(Enum):
    """The stored integer types; the value is numpy's name.

    Attributes:
        U8: 0 to 255.
        S8: -128 to 127.
        U16: 0 to 65535.
        S16: -32768 to 32767.
        S32: For biases only.
    """

    U8 = "uint8"
    S8 = "int8"
    U16 = "uint16"
    S16 = "int16"
    S32 = "int32"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype."""
        return np.dtype(self.value)


class Symmetry(Enum):
    """Where zero lies.

    Attributes:
        ASYMMETRIC: The zero point is any integer of the type, so that one-sided ranges use all of it.
        SYMMETRIC: The zero point is 0 (128 for u8), and the range is the same on both sides.
    """

    ASYMMETRIC = "asymmetric"
    SYMMETRIC = "symmetric"


@dataclass(frozen=True)
class Grid:
    """The integers that may be used.

    Attributes:
        type: How they are stored.
        symmetry: Where zero lies.
        reduced: Use 7 bits of 8. ``vpmaddubsw`` (x86 without VNNI) adds two u8 × s8 products in 16 bits and
            saturates; with 7-bit weights 2 · 255 · 64 = 32640 fits.
    """

    type: IntType
    symmetry: Symmetry
    reduced: bool = False

    @property
    def low(self) -> int:
        """The smallest integer used. Symmetric signed grids leave out -128, so that -x is as exact as x."""
        if self.type in {IntType.U8, IntType.U16}:
            return 0
        lowest = int(np.iinfo(self.type.value).min) >> self.reduced
        return lowest + 1 if self.symmetry is Symmetry.SYMMETRIC else lowest

    @property
    def high(self) -> int:
        """The largest integer used."""
        return int(np.iinfo(self.type.value).max) >> self.reduced

    @property
    def levels(self) -> int:
        """How many integers are used."""
        return self.high - self.low + 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 0 if self.low < 0 else (self.high + 1) // 2

    @property
    def steps(self) -> int:
        """How many scales a range spans: from one end to the other, or from zero to either where it is symmetric."""
        return self.high - (self.middle if self.symmetry is Symmetry.SYMMETRIC else self.low)


WEIGHTS = Grid(IntType.S8, Symmetry.SYMMETRIC)
BIAS = Grid(IntType.S32, Symmetry.SYMMETRIC)


@dataclass(frozen=True, eq=False)
class QParams:
    """How one tensor is quantized.

    Attributes:
        scale: float32, positive, normal and finite; shape ``()`` per tensor, ``(C,)`` per channel.
        zero_point: Of the grid's dtype and the shape of `scale`.
        grid: The integers used.
        axis: The channel axis; None per tensor.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    grid: Grid
    axis: int | None = None


def params_from_range(
    low: float | np.ndarray, high: float | np.ndarray, grid: Grid, axis: int | None = None
) -> QParams:
    """Quantization parameters whose integers cover [low, high].

    The range is widened to hold 0, which is always exactly representable: padding and Relu depend on it. A range that
    is empty after that (all zeros) gets the scale 1.

    Args:
        low: Finite; a number, or one per channel.
        high: Finite, not below `low`; of the same shape.
        grid: The integers to use.
        axis: The channel axis when `low` and `high` are per channel.
    """
    low64 = np.minimum(np.asarray(low, np.float64), 0.0)
    high64 = np.maximum(np.asarray(high, np.float64), 0.0)
    symmetric = grid.symmetry is Symmetry.SYMMETRIC
    wide = np.maximum(-low64, high64) if symmetric else high64 - low64
    scale = as_scale(np.where(wide > 0, wide / grid.steps, 1.0))
    if symmetric:
        zero_point = np.full(scale.shape, grid.middle)
    else:
        zero_point = np.clip(np.rint(grid.low - low64 / scale), grid.low, grid.high)
    return QParams(scale, np.array(zero_point, grid.type.dtype), grid, axis)


def weight_params(array: np.ndarray, axis: int | None, grid: Grid = WEIGHTS) -> QParams:
    """Parameters that cover the extremes of a constant.

    Args:
        array: float32, finite, at least one element.
        axis: The axis with one scale for each index, not negative; None for one scale for the whole tensor.
        grid: The integers; s8 symmetric by default.
    """
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    return params_from_range(array.min(axis=others), array.max(axis=others), grid, axis)


def raise_for_bias(weight: QParams, activation_scale: np.ndarray, bias: np.ndarray | None) -> QParams:
    """Raise weight scales until the bias fits in int32 at activation_scale · weight_scale.

    A BatchNormalization folded into a channel that is always 0 leaves weights near zero and an ordinary bias. A raised
    scale costs no accuracy there: a bias of more than 2^30 steps is much larger than any sum of u8 × s8 products.

    Args:
        weight: Symmetric parameters.
        activation_scale: float32, shape ``()``.
        bias: float32, shape ``(C,)``, finite; None when there is none.
    """
    least = np.full(weight.scale.shape, LEAST_SCALE / float(activation_scale))
    if bias is not None:
        need = np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT * float(activation_scale))
        least = np.maximum(least, need if weight.scale.ndim else need.max(initial=0.0))
    scale = as_scale(np.maximum(weight.scale.astype(np.float64), least))
    return replace(weight, scale=scale)


def free_dead_channels(weight: QParams, array: np.ndarray, activation_scale: np.ndarray, bias: np.ndarray) -> QParams:
    """Give channels whose weights are all zero a scale that makes their bias precise to 20 bits.

    Args:
        weight: Per-channel symmetric parameters of `array`; per tensor they are returned as they are.
        array: The weights.
        activation_scale: float32, shape ``()``.
        bias: float32, shape ``(C,)``.
    """
    if weight.axis is None:
        return weight
    dead = ~np.any(array, axis=tuple(i for i in range(array.ndim) if i != weight.axis))
    wanted = np.abs(bias.astype(np.float64)) / (_DEAD_BIAS_STEPS * float(activation_scale))
    scale = as_scale(np.where(dead & (wanted > 0), wanted, weight.scale))
    return replace(weight, scale=scale)


def bias_params(weight: QParams, activation_scale: np.ndarray) -> QParams:
    """int32 parameters of a bias: scale = activation_scale · weight_scale, zero point 0, as integer kernels add it."""
    scale = as_scale(weight.scale.astype(np.float64) * float(activation_scale))
    return QParams(scale, np.zeros(scale.shape, np.int32), BIAS, 0 if scale.ndim else None)


def quantize(array: np.ndarray, params: QParams) -> np.ndarray:
    """The integers of `array`, in the grid's dtype and array's shape; out-of-range values saturate.

    Within the range that `params` was made for, |x - dequantize(quantize(x))| <= scale / 2.

    Args:
        array: float32 numbers without NaN, in any float dtype.
        params: How.
    """
    scale, zero_point = _spread(params, array.ndim)
    steps = np.rint(array.astype(np.float64) / scale) + zero_point
    return np.asarray(np.clip(steps, params.grid.low, params.grid.high), params.grid.type.dtype)


def dequantize(integers: np.ndarray, params: QParams) -> np.ndarray:
    """The float32 numbers that `integers` stand for."""
    scale, zero_point = _spread(params, integers.ndim)
    return np.asarray((integers.astype(np.float64) - zero_point) * scale, np.float32)


def _spread(params: QParams, rank: int) -> tuple[np.ndarray, np.ndarray]:
    scale, zero_point = params.scale.astype(np.float64), params.zero_point.astype(np.float64)
    if params.axis is None:
        return scale, zero_point
    shape = [1] * rank
    shape[params.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)


def as_scale(wanted: np.ndarray) -> np.ndarray:
    """The nearest scales that runtimes take: float32, positive, normal and finite."""
    # A scale that float32 rounds down leaves the ends of the range outside by one ulp, far less than scale / 2.
    return np.asarray(np.clip(wanted, LEAST_SCALE, _LARGEST_SCALE), np.float32)
