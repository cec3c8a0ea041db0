"""Half-quadratic quantization: scales and zero points that minimize sum |w - dq(q(w))|^p with p < 1, without data.

Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models" (Mobius Labs). With p < 1 outliers
count less. The problem is split with an auxiliary error e: a proximal step shrinks the residual to e, then the
parameters of the block are fitted to w - e by least squares. In the paper the zero point is a float and the scale is
fixed. onnxruntime needs an integer zero point, so it is rounded here, and the scale is fitted as well.
"""

from __future__ import annotations

import numpy as np

from modelopt.quant.numerics.blocks import BlockGrid, BlockParams, chunks_of, rounded
from modelopt.quant.numerics.scheme import LEAST_SCALE

P = 0.7
"""The exponent of the norm, as published."""

_BETA = 10.0
_BETA_GROWTH = 1.01
_STEPS = 20


def refine(weight: np.ndarray, start: BlockParams, grid: BlockGrid) -> BlockParams:
    """Parameters whose loss, the sum of |w - dq(q(w))|^p, is in no block above that of `start`.

    Args:
        weight: Finite float32, shape ``(N, K)``.
        start: The first parameters, such as those of `blocks.params_of`.
        grid: The integers.
    """
    scales, zeros = np.empty_like(start.scale), np.empty_like(start.zero_point)
    for rows, blocks in chunks_of(weight, grid):
        scales[rows], zeros[rows] = _refine(blocks, start.scale[rows], start.zero_point[rows], grid)
    return BlockParams(scales, zeros)


def _refine(
    blocks: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: BlockGrid
) -> tuple[np.ndarray, np.ndarray]:
    # The published constants are for weights of size 1, so blocks are divided by a power of two, which is exact.
    _, exponent = np.frexp(np.maximum(np.abs(blocks).max(axis=2, keepdims=True), LEAST_SCALE))
    size = np.ldexp(np.float32(1), exponent - 1)
    blocks = blocks / size
    scale = np.maximum(scale / size[:, :, 0], LEAST_SCALE)
    best_scale, best_zero, least = scale, zero_point, np.full(scale.shape, np.inf, np.float32)
    beta = _BETA
    for _ in range(_STEPS):
        steps, restored = _restored(blocks, scale, zero_point, grid)
        residual = blocks - restored
        current = _loss(residual)
        better = current < least
        if not better.any():
            break
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero_point, best_zero)
        least = np.where(better, current, least)
        target = blocks - _shrunk(residual, beta)
        scale, zero_point = _fitted(target, steps, scale, zero_point, grid)
        beta *= _BETA_GROWTH
    final = np.asarray(np.maximum(best_scale * size[:, :, 0], LEAST_SCALE), np.float32)
    return final, best_zero


def _restored(
    blocks: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: BlockGrid
) -> tuple[np.ndarray, np.ndarray]:
    steps = rounded(blocks, scale[:, :, None], zero_point[:, :, None], grid)
    return steps, (steps - zero_point[:, :, None]) * scale[:, :, None]


def _loss(residual: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(residual) ** np.float32(P)).sum(axis=2), np.float32)


def _shrunk(residual: np.ndarray, beta: float) -> np.ndarray:
    """The proximal step of |e|^p: the part of the residual that is treated as an outlier."""
    size = np.abs(residual)
    threshold = np.maximum(size, np.float32(1e-12)) ** np.float32(P - 1) / np.float32(beta)
    return np.asarray(np.sign(residual) * np.maximum(size - threshold, 0))


def _fitted(
    target: np.ndarray, steps: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, grid: BlockGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares scale, and zero point unless symmetric, for fixed integers; where there is none, the old one."""
    if not grid.symmetric:
        mean_zero = (steps - target / scale[:, :, None]).mean(axis=2)
        zero_point = np.asarray(np.clip(np.rint(mean_zero), 0, grid.high), np.uint8)
    centred = steps - zero_point[:, :, None].astype(np.float32)
    power = (centred * centred).sum(axis=2)
    fit = (target * centred).sum(axis=2) / np.maximum(power, 1)
    return np.where(fit > LEAST_SCALE, fit, scale).astype(np.float32), zero_point
