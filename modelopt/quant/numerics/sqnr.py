"""The signal-to-quantization-noise ratio of one tensor, 10 · log10(Σx² / Σ(x - x')²) in decibels.

For an activation it is computed from the histogram of calibration, so it needs no run.
"""

from __future__ import annotations

import math

import numpy as np

from modelopt.calibration.histogram import Histogram
from modelopt.core.changes import TensorError
from modelopt.quant.numerics.scheme import QParams, dequantize, quantize

_CHANNELS = 32
"""How many output channels of a large weight are used."""

_LARGE = 1 << 16


def of_activation(name: str, histogram: Histogram, params: QParams) -> TensorError:
    """The error of an activation with this histogram."""
    return TensorError(name, "activation", *_range(params), _decibels(histogram.centers, params, histogram.counts))


def of_weight(name: str, array: np.ndarray, params: QParams) -> TensorError:
    """The error of a weight; for a large one, that of some of its channels."""
    some = params
    if params.axis is not None and array.size > _LARGE:
        channels = np.linspace(0, array.shape[params.axis] - 1, _CHANNELS).astype(np.int64)
        array = array.take(channels, axis=params.axis)
        some = QParams(params.scale[channels], params.zero_point[channels], params.grid, params.axis)
    return TensorError(name, "weight", *_range(params), _decibels(array, some, 1.0))


def _range(params: QParams) -> tuple[float, float]:
    """The smallest and the largest number that the integers stand for, in any channel."""
    scale, zero = params.scale.astype(np.float64), params.zero_point.astype(np.float64)
    return float(np.min((params.grid.low - zero) * scale)), float(np.max((params.grid.high - zero) * scale))


def _decibels(values: np.ndarray, params: QParams, counts: np.ndarray | float) -> float | None:
    held = dequantize(quantize(values, params), params).astype(np.float64)
    wide = values.astype(np.float64)
    noise = float(np.sum(counts * (wide - held) ** 2))
    signal = float(np.sum(counts * wide**2))
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
