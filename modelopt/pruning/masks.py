"""Which weights to set to zero: boolean masks over scores, exact in number and the same on every run.

Of equal scores the one with the lower index is masked first, so that the result does not depend on a sorting algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def magnitude(weights: np.ndarray) -> np.ndarray:
    """The scores of magnitude pruning, ``|w|``: float32 or, for float64 weights, float64; same shape.

    As in Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015): the smaller the
    score, the less a weight matters.
    """
    scores: np.ndarray = np.abs(weights.astype(np.float64 if weights.dtype == np.float64 else np.float32))
    return scores


def smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """A mask of exactly the `count` smallest scores, in time linear in their number; same shape.

    Raises:
        ValueError: `count` is negative or more than there are, or a score is NaN.
    """
    flat = scores.reshape(-1)
    if not 0 <= count <= flat.size:
        raise ValueError(f"cannot mask {count} of {flat.size}")
    if np.isnan(flat).any():
        raise ValueError("scores hold NaN, which has no order")
    mask = np.zeros(flat.size, bool)
    if count:
        last = np.partition(flat, count - 1)[count - 1]
        mask[flat < last] = True
        tied = np.flatnonzero(flat == last)
        mask[tied[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(scores.shape)


def unstructured(scores: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Masks of the ``floor(sparsity · n)`` smallest of the n scores of all tensors together."""
    flat = np.concatenate([each.reshape(-1) for each in scores]) if scores else np.zeros(0)
    mask = smallest(flat, math.floor(sparsity * flat.size))
    ends = np.cumsum([each.size for each in scores])[:-1]
    return [part.reshape(each.shape) for part, each in zip(np.split(mask, ends), scores, strict=False)]


def in_rows(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """A mask of the smallest scores of each row: ``floor(sparsity · n)`` of all n, spread evenly over the rows.

    Args:
        scores: Shape (rows, k).
        sparsity: At least 0 and below 1.
    """
    ends = np.floor(sparsity * scores.shape[1] * np.arange(len(scores) + 1)).astype(int)
    ends[-1] = math.floor(sparsity * scores.size)
    return np.stack([smallest(row, count) for row, count in zip(scores, np.diff(ends), strict=True)])


def n_of_m(scores: np.ndarray, zeros: int, group: int) -> np.ndarray:
    """A mask of the `zeros` smallest of each `group` consecutive scores along the last axis.

    A remainder shorter than `group` at the end of the axis is kept whole.

    Args:
        scores: Shape (…, k).
        zeros: How many of each group to mask.
        group: How many scores make a group.
    """
    mask = np.zeros(scores.shape, bool)
    whole = scores.shape[-1] - scores.shape[-1] % group
    groups = scores[..., :whole].reshape(*scores.shape[:-1], -1, group)
    order = np.argsort(groups, axis=-1, kind="stable")
    picked = np.zeros(groups.shape, bool)
    np.put_along_axis(picked, order[..., :zeros], True, axis=-1)  # noqa: FBT003 (numpy's own order of arguments)
    mask[..., :whole] = picked.reshape(*scores.shape[:-1], whole)
    return mask
