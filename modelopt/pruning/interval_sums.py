"""Bounds of weighted sums, ``y_r = b_r + Σ_i Σ_k w_rik · x_i``, where the bounds of each ``x_i`` are known.

Interval arithmetic (Moore 1966), in the form of centre and radius: with c = (low + high) / 2 and r = (high - low) / 2,
y lies within ``Σ |w| · r`` of ``b + Σ w · c``. A sum of n rounded products differs from the exact one by less than
``n · ε · Σ |w · x|`` (Higham 2002, section 3.1): bounds that differ are moved outward by twice that.
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
        ends = (low, high) if len(low) == 1 else (low[group[some]], high[group[some]])
        found_low[some], found_high[some] = _all_terms(weight[some], *ends, epsilon)
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
    return np.arange(min(count, size)) * size // max(min(count, size), 1)


def _open(weight: np.ndarray, below: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have no lower and which no upper bound."""
    positive, negative = (weight > 0).any(2), (weight < 0).any(2)
    no_low, no_high = positive & below | negative & above, positive & above | negative & below
    return np.any(no_low, axis=1), np.any(no_high, axis=1)


def _all_terms(weight: np.ndarray, low: np.ndarray, high: np.ndarray, epsilon: float) -> Range:
    """Bounds of some rows without bias; `low` and `high` have one row for each of them, or one for all."""
    no_low = no_high = np.zeros(len(weight), bool)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        no_low, no_high = _open(weight, np.isneginf(low), np.isposinf(high))
        low, high = np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 0)
    wide = weight.astype(np.float64)
    signed, size = wide.sum(2), np.abs(wide, out=wide).sum(2)
    centre, radius = _dot(signed, (low + high) / 2), _dot(size, (high - low) / 2)
    largest = _dot(size, np.maximum(np.abs(low), np.abs(high)))
    margin = np.where(radius == 0, 0, radius + 2 * epsilon * (weight[0].size + 2) * largest)
    return np.where(no_low, -np.inf, centre - margin), np.where(no_high, np.inf, centre + margin)


def _dot(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.asarray(rows @ numbers[0] if len(numbers) == 1 else (rows * numbers).sum(1))
