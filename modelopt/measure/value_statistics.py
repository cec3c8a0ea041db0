"""Figures of an output's values that say what the output stands for: ranges, rows along an axis, smoothness."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FEWEST_ROWS = 8
"""Fewer rows say nothing of how scores vary."""

_COMMON_MODE = 0.5
_MARGIN = 2.0
_UNITS_APART = 20.0
_SHORTEST_SMOOTH = 8
_MOST_ROWS = 4096
_MOST_VALUES = 1_000_000


def smoothness(rows: np.ndarray) -> float:
    """The correlation of each number of a row with the next, over all rows."""
    if not len(rows) or rows.shape[1] < _SHORTEST_SMOOTH:
        return 0.0
    finite = filled(rows)
    centered = finite - finite.mean(1, keepdims=True)
    power = float((centered**2).sum())
    return float((centered[:, 1:] * centered[:, :-1]).sum()) / power if power else 1.0


def rows_along(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Rows along `axis`, float64[rows, n], at most about 4096, taken evenly; rows with NaN or infinity are left out."""
    rows = np.concatenate([np.moveaxis(each, axis, -1).reshape(-1, each.shape[axis]) for each in arrays])
    finite: np.ndarray = rows[np.isfinite(rows).all(1)]
    return finite[:: max(1, len(finite) // _MOST_ROWS)]


def finite_values(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The finite values, float64[n], at most about a million, taken evenly."""
    values = np.concatenate([each.ravel() for each in arrays])
    finite: np.ndarray = values[np.isfinite(values)]
    return finite[:: max(1, len(finite) // _MOST_VALUES)]


def is_unit(values: np.ndarray) -> bool:
    """Whether all values lie between 0 and 1, up to rounding."""
    return bool(values.size) and bool(values.min() >= -1e-6 and values.max() <= 1 + 1e-6)


def yes_threshold(scores: np.ndarray) -> float:
    """The score above which an answer means yes: 0.5, or half of the largest score where none is above 0.5."""
    most = float(scores.max())
    return 0.5 if most > 0.5 else most / 2


def filled(values: np.ndarray) -> np.ndarray:
    """The values with the largest finite float32 in place of infinity, and the lowest one in place of NaN."""
    most = float(np.finfo(np.float32).max)
    found: np.ndarray = np.nan_to_num(values, nan=-most, posinf=most, neginf=-most)
    return found


def axis_name(axis: int, rank: int) -> str:
    """An axis in words."""
    return "the last axis" if axis == -1 or rank + axis == rank - 1 else f"axis {rank + axis}"


def class_evidence(rows: np.ndarray, rank: int) -> str | None:
    """Why the rows of numbers, float64[rows, classes], are scores of classes; None where nothing says so.

    There are two signs. Training with a softmax moves the scores of a row against each other, so the mean of a row
    varies less over rows than the mean of independent numbers does. Or the highest score of a row is far above the
    second.
    """
    n, classes = rows.shape
    if n < FEWEST_ROWS:
        return "rows are few: they may be scores of classes" if rank <= 2 else None
    spread = rows.std(0)
    if not spread.any() or spread.max() > _UNITS_APART * max(float(np.median(spread)), 1e-30):
        return None
    # The variance of the rows' means relative to what independent numbers would give: 1 for these.
    common = classes * float(rows.mean(1).var()) / float((spread**2).mean())
    if common < _COMMON_MODE:
        return "scores move against each other"
    if common > 2 or classes < 4:
        return None
    top = np.sort(rows, 1)[:, -2:]
    margin = float(np.median((top[:, 1] - top[:, 0]) / np.maximum(rows.std(1), 1e-30)))
    distinct = len(np.unique(rows.argmax(1)))
    by_chance = 1 / math.sqrt(2 * math.log(classes))  # the gap of the two highest of so many normal numbers
    return "highest score stands out" if margin > _MARGIN * by_chance and distinct > 1 else None
