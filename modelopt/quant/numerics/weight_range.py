"""The range of a weight: its extremes, or a narrower range with a smaller error.

A few large weights in a channel make the step between integers large for all others. Clipping them costs an error at
these weights, and makes the step smaller for the rest. The search (Banner et al. 2019, arXiv:1810.05723, here on the
weights themselves) finds the range with the least squared error.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np

from modelopt.quant.numerics import scheme
from modelopt.quant.numerics.scheme import Grid, QParams

_FRACTIONS = tuple(np.linspace(1.0, 0.3, 36).tolist())  # of the full range: steps of 2 %, a choice, not fitted
_CHUNK = 2**18  # elements at once: a copy in float64 stays in the processor's cache


class WeightRange(Enum):
    """How the range of a weight is chosen.

    Attributes:
        MAX: Its extremes.
        MSE: For each scale, the part of this range with the least squared error.
    """

    MAX = "max"
    MSE = "mse"


def weight_params(
    array: np.ndarray, axis: int | None, grid: Grid, weight_range: WeightRange = WeightRange.MAX
) -> QParams:
    """The parameters of a weight.

    Args:
        array: float32, finite, at least one element.
        axis: The axis with one scale for each index; None for one scale.
        grid: The integers.
        weight_range: How the range is chosen.
    """
    params = scheme.weight_params(array, axis, grid)
    return params if weight_range is WeightRange.MAX else narrowed(array, params)


def description(grid: Grid, *, per_channel: bool, weight_range: WeightRange, unsaturated: bool) -> str:
    """How reports name the integers of weights: ``int8 per channel, 7 bits``."""
    return (
        f"{grid.type.value} {'per channel' if per_channel else 'per tensor'}"
        + (", 7 bits" if grid.reduced else "")
        + (", mse" if weight_range is WeightRange.MSE else "")
        + (", scaled so that no 16-bit sum saturates" if unsaturated else "")
    )


def narrowed(array: np.ndarray, params: QParams) -> QParams:
    """The parameters with the least squared error among `params` and those with scales down to 0.3 of theirs.

    Args:
        array: float32, finite, of the shape that `params` was made for.
        params: The first parameters; no channel becomes worse. Zero points stay.
    """
    best, least = params, squared_error(array, params)
    for fraction in _FRACTIONS[1:]:
        tried = replace(params, scale=np.maximum(params.scale * np.float32(fraction), np.finfo(np.float32).tiny))
        error = squared_error(array, tried)
        better = error < least
        if better.any():
            best = replace(best, scale=np.asarray(np.where(better, tried.scale, best.scale), np.float32))
            least = np.where(better, error, least)
    return best


def squared_error(array: np.ndarray, params: QParams) -> np.ndarray:
    """Sum of (x - dequantized x)² for each scale: float64, of the shape of `params.scale`."""
    axis = params.axis
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    flat = replace(params, axis=None if axis is None else 0)
    total = np.zeros(len(rows))
    step = max(1, _CHUNK // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        own = flat if axis is None else replace(flat, scale=flat.scale[some], zero_point=flat.zero_point[some])
        for first in range(0, rows.shape[1], _CHUNK):
            values = rows[some, first : first + _CHUNK]
            restored = scheme.dequantize(scheme.quantize(values, own), own)
            total[some] += np.square(values - restored.astype(np.float64)).sum(axis=1)
    return total.reshape(params.scale.shape)
