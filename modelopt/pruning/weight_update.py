"""Weights that make up for those that became zero: the least squared error of a layer's outputs on calibration data.

For a weight W with inputs x the error of a changed V is tr((W - V) H (W - V)ᵀ), H = mean(x xᵀ). The zeros are given;
the other weights are fitted in two steps. First zeros are set column by column, and the later columns take over the
error of each by the Cholesky factor of H⁻¹: SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774), after Optimal
Brain Surgeon (Hassibi and Stork 1993). Columns that come early can make up for nothing that comes late, so conjugate
gradients then go on to the least error that these zeros permit.
"""

from __future__ import annotations

import numpy as np

from modelopt.pruning.element_importance import DAMPING
from modelopt.quant.numerics.gptq import inverse_factor

_BLOCK = 128  # columns whose errors are carried to the rest in one matrix product
_STEPS = 50  # of conjugate gradients, at most
_FEW_STEPS = 10
_CLOSE = 1e-4  # of the gradient's norm without any weight: the refinement ends there


def updated(
    rows: np.ndarray, gone: np.ndarray, grams: np.ndarray, damping: float = DAMPING, *, thoroughly: bool = True
) -> np.ndarray:
    """The weights beside zeros that make up for these as well as they can.

    Args:
        rows: Finite floats, shape ``(rows, k)``.
        gone: Bool, the same shape: what is zero in the result.
        grams: float64, shape ``(groups, k, k)``: H of each block of rows.
        damping: Added to the diagonal of H, as a part of its mean: the fit keeps nearer to `rows`.
        thoroughly: Whether to refine until little is left to gain; else a few steps.

    Returns:
        float64, shape ``(rows, k)``; of each block of rows the error is no larger than that of zeros alone.
    """
    blocks = rows.astype(np.float64).reshape(len(grams), -1, rows.shape[1])
    masks = gone.reshape(blocks.shape)
    means = np.trace(grams, axis1=1, axis2=2) / grams.shape[-1]
    ridge = np.where(means > 0, damping * means, 1.0)  # an input that is always zero says nothing: nothing changes
    damped = grams + ridge[:, None, None] * np.eye(grams.shape[-1])
    start = np.where(masks, 0.0, blocks)
    if len(grams) == 1 and means[0] > 0:  # many small groups, as of depthwise kernels, are soon refined without
        carried = _carried(blocks[0], masks[0], inverse_factor(grams[0], damping))
        if _error(blocks[0] - carried, damped[0]) < _error(blocks[0] - start[0], damped[0]):
            start[0] = carried
    return _refined(blocks, start, masks, damped, _STEPS if thoroughly else _FEW_STEPS).reshape(rows.shape)


def relative_error(rows: np.ndarray, new: np.ndarray, grams: np.ndarray) -> float | None:
    """The squared error of the outputs over their square, on calibration data; None where the outputs are zero."""
    before, after = (each.astype(np.float64).reshape(len(grams), -1, rows.shape[1]) for each in (rows, new))
    total = _error(before, grams)
    return _error(before - after, grams) / total if total > 0 else None


def _error(change: np.ndarray, grams: np.ndarray) -> float:
    return float((np.matmul(change, grams) * change).sum())


def _carried(rows: np.ndarray, gone: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Set the zeros column by column, and carry the error of each column to the later ones."""
    rest, zero = np.array(rows.T, order="C"), np.array(gone.T, order="C")  # a column lies together in memory
    width = len(rest)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        errors = np.empty((stop - start, rest.shape[1]))
        for k in range(start, stop):
            errors[k - start] = np.where(zero[k], rest[k], 0.0) / factor[k, k]
            rest[k][zero[k]] = 0.0
            rest[k + 1 : stop] -= np.outer(factor[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return rest.T


def _refined(wanted: np.ndarray, start: np.ndarray, gone: np.ndarray, grams: np.ndarray, steps: int) -> np.ndarray:
    """Conjugate gradients on the weights that stay, each scaled by its diagonal, for all rows at once.

    Args:
        wanted: The weights before, shape ``(groups, rows, k)``.
        start: Where to begin: zero where `gone` is.
        gone: What stays zero.
        grams: Positive definite, shape ``(groups, k, k)``.
        steps: How many, at most.
    """
    stays = ~gone
    diagonal = np.diagonal(grams, axis1=1, axis2=2)[:, None, :]
    found = start.copy()
    residual = np.matmul(wanted - found, grams) * stays
    enough = _CLOSE**2 * (np.square(np.matmul(wanted, grams)) / diagonal).sum(-1)
    direction = residual / diagonal
    size = (residual * direction).sum(-1)
    for _ in range(steps):
        if (size <= enough).all():
            break
        image = np.matmul(direction, grams) * stays
        curvature = (direction * image).sum(-1)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)[..., None]
        found += step * direction
        residual -= step * image
        scaled = residual / diagonal
        after = (residual * scaled).sum(-1)
        ratio = np.divide(after, size, out=np.zeros_like(size), where=size > 0)[..., None]
        direction, size = scaled + ratio * direction, after
    return found
