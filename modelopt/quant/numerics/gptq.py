"""Rounding with error feedback: the columns not yet rounded compensate the rounding error of each column.

Frantar et al. 2022, "GPTQ", arXiv:2210.17323 (after Optimal Brain Surgeon, Hassibi and Stork 1993). Numbers only:
scales and zero points are given ("static groups"), so that columns may be rounded in any order, and one function does
per-tensor, per-channel and block-wise quantization.
"""

from __future__ import annotations

import numpy as np

_BATCH = 128  # columns whose feedback to the rest is applied in one matrix product
_DAMPING = 0.01  # as published; a part of the mean of the diagonal
_MOST_DAMPING = 1e3


def gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    low: int,
    high: int,
) -> np.ndarray:
    """Integers q in [low, high] with a small tr(E H Eᵀ), E = weight - (q - zero_point) · scale.

    A row that feedback does not improve is rounded to nearest, so the result is never worse than that. Columns are
    rounded by decreasing diagonal ("act-order"): the important ones first, while many columns are left to compensate
    their error.

    Args:
        weight: Finite floats, shape ``(N, K)``: a row per output, a column per input. (A MatMul's weight transposed; a
            convolution's as ``(M, C/group · kH · kW)``, with one hessian per group.)
        hessian: float64, shape ``(K, K)``, mean of x xᵀ (`hessian.Hessian.matrix`).
        scale: Positive, of a shape that broadcasts to ``(N, K)``: ``()`` per tensor, ``(N, 1)`` per channel, and so on.
        zero_point: Integers, in the shape of `scale`.
        low: The smallest integer used.
        high: The largest integer used.

    Returns:
        int32, shape ``(N, K)``.
    """
    steps, zeros = (np.broadcast_to(np.asarray(a, np.float64), weight.shape) for a in (scale, zero_point))
    nearest = np.asarray(np.clip(np.rint(weight / steps + zeros), low, high), np.int32)
    diagonal = np.diagonal(hessian)
    if not np.any(diagonal > 0):
        return nearest
    order = np.argsort(-diagonal, kind="stable")
    factor = inverse_factor(hessian[np.ix_(order, order)], _DAMPING)
    fed_back = np.empty_like(nearest)
    fed_back[:, order] = _round_columns(weight[:, order], factor, steps[:, order], zeros[:, order], low, high)
    better = objective(weight, fed_back, hessian, scale, zero_point) < objective(
        weight, nearest, hessian, scale, zero_point
    )
    return np.where(better[:, None], fed_back, nearest)


def objective(
    weight: np.ndarray, integers: np.ndarray, hessian: np.ndarray, scale: np.ndarray, zero_point: np.ndarray
) -> np.ndarray:
    """The diagonal of E H Eᵀ: float64, shape ``(N,)``, the expected squared error of each output.

    Args:
        weight: As of `gptq`, and so are the others.
        integers: What the weight was rounded to, shape ``(N, K)``.
        hessian: Shape ``(K, K)``.
        scale: Broadcasts to ``(N, K)``.
        zero_point: Broadcasts to ``(N, K)``.
    """
    steps, zeros = (np.broadcast_to(np.asarray(a, np.float64), weight.shape) for a in (scale, zero_point))
    error = weight.astype(np.float64) - (integers - zeros) * steps
    return np.asarray(((error @ hessian) * error).sum(axis=1))


def inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Upper U with Uᵀ U = (H + λI)⁻¹; row k holds how column k's error spreads over the later ones.

    λ is `damping` times the mean of the diagonal of H, and larger where H + λI has no Cholesky factor.

    With the order of rows and columns reversed H = L Lᵀ is H = R Rᵀ with R upper, and U = R⁻¹: one factorization.
    """
    mean = float(np.trace(hessian)) / len(hessian)
    while True:
        damped = hessian + np.eye(len(hessian)) * (damping * mean)
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            if damping > _MOST_DAMPING:
                raise
            damping = max(damping * 10, 1e-6)
            continue
        return np.asarray(np.triu(np.linalg.inv(lower[::-1, ::-1])))


def _round_columns(
    weight: np.ndarray, factor: np.ndarray, steps: np.ndarray, zeros: np.ndarray, low: int, high: int
) -> np.ndarray:
    rest, steps, zeros = (  # a column in a row, so that it lies together in memory
        np.array(array.T, np.float64, order="C") for array in (weight, steps, zeros)
    )
    width, rows = rest.shape
    integers = np.empty(rest.shape, np.int32)
    for start in range(0, width, _BATCH):
        stop = min(start + _BATCH, width)
        errors = np.empty((stop - start, rows))
        for k in range(start, stop):
            integers[k] = np.clip(np.rint(rest[k] / steps[k] + zeros[k]), low, high)
            errors[k - start] = (rest[k] - (integers[k] - zeros[k]) * steps[k]) / factor[k, k]
            rest[k + 1 : stop] -= np.outer(factor[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return integers.T
