"""Bounds of weighted sums, ``y_r = b_r + Σ_i Σ_k w_rik · x_i``, where the bounds of each ``x_i`` are known.

Interval arithmetic (Moore 1966): with w⁺ and w⁻ the positive and the negative part, y lies between
``b + Σ w⁺ · low + w⁻ · high`` and ``b + Σ w⁺ · high + w⁻ · low``. A sum of n rounded products differs from the exact
one by less than ``n · ε · Σ |w · x|`` (Higham 2002, section 3.1): bounds that differ are moved outward by twice that.
"""

from __future__ import annotations

import numpy as np

Range = tuple[np.ndarray, np.ndarray]
"""(low, high), both float64 of one shape. Where they are equal the value is that for every input, up to rounding."""

_SAMPLES = (2, 32)
"""How many terms of each row are looked at first: one weight of each sign is enough where inputs are unbounded."""

_CHUNK = 2**21
"""Weights that are computed with at a time."""


def weighted_sums(weight: np.ndarray, low: np.ndarray, high: np.ndarray, bias: Range, epsilon: float) -> Range:
    """The bounds of each row.

    Where inputs are unbounded most rows are, and a few of their weights show it: the others are not read.

    Args:
        weight: Shape (rows, inputs, k), any float dtype.
        low: Lower bounds of the inputs, float64 of shape (groups, inputs): rows belong to groups in equal shares.
        high: Upper bounds.
        bias: Bounds of shape (rows,).
        epsilon: The spacing of floats at 1 in the dtype that the runtime computes in.
    """
    rows = len(weight)
    group = np.arange(rows) // max(rows // len(low), 1)
    below, above = np.isneginf(low), np.isposinf(high)
    left = np.arange(rows)
    if below.any() or above.any():
        for count in _SAMPLES:
            at = _spread(weight.shape[1], count)
            part = weight[left[:, None], at]
            no_low, no_high = _open(part, below[:, at][group[left]], above[:, at][group[left]])
            left = left[~(no_low & no_high)]
            if not left.size:
                break
    found_low, found_high = np.full(rows, -np.inf), np.full(rows, np.inf)
    step = max(_CHUNK // max(weight[:1].size, 1), 1)
    for start in range(0, len(left), step):
        some = left[start : start + step]
        found_low[some], found_high[some] = _all_terms(weight[some], low[group[some]], high[group[some]], epsilon)
    return found_low + bias[0], found_high + bias[1]


def unread(weight: np.ndarray) -> np.ndarray:
    """Which inputs meet only zero weights: bool, shape (inputs,).

    Args:
        weight: Shape (rows, inputs, k).
    """
    left = np.arange(weight.shape[1])
    for count in _SAMPLES:
        left = left[~weight[_spread(len(weight), count)][:, left].any(axis=(0, 2))]
        if not left.size:
            break
    found = np.zeros(weight.shape[1], bool)
    found[left] = ~weight[:, left].any(axis=(0, 2)) if left.size else False
    return found


def _spread(size: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(size - 1, 0), min(count, size)).astype(np.int64))


def _open(weight: np.ndarray, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have no lower and which no upper bound."""
    positive, negative = (weight > 0).any(2), (weight < 0).any(2)
    no_low, no_high = positive & below | negative & above, positive & above | negative & below
    return np.any(no_low, axis=1), np.any(no_high, axis=1)


def _all_terms(weight: np.ndarray, low: np.ndarray, high: np.ndarray, epsilon: float) -> Range:
    no_low, no_high = _open(weight, np.isneginf(low), np.isposinf(high))
    wide = weight.astype(np.float64)
    positive, negative = np.maximum(wide, 0).sum(2), np.minimum(wide, 0).sum(2)
    first, last = np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 0)
    lower = (positive * first + negative * last).sum(1)
    upper = (positive * last + negative * first).sum(1)
    rounding = ((positive - negative) * np.maximum(np.abs(first), np.abs(last))).sum(1)
    margin = np.where(lower == upper, 0, 2 * epsilon * (weight[0].size + 2) * rounding)
    return np.where(no_low, -np.inf, lower - margin), np.where(no_high, np.inf, upper + margin)
