"""The bootstrap, and the quantiles and trimmed means that numpy lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

_TRIMMED = 0.2
_CHUNK_ELEMENTS = 4_000_000


def trimmed_mean(values: np.ndarray) -> np.ndarray:
    """The mean along the last axis without the lowest and the highest fifth."""
    cut = int(_TRIMMED * values.shape[-1])
    kept: np.ndarray = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(kept.mean(axis=-1))


def bootstrap(
    n: int, statistic: Callable[[np.ndarray], np.ndarray], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The percentile interval of a statistic, expanded for small n (Hesterberg 2015, §4).

    A plain percentile interval is too narrow by about the factor by which Student's t exceeds the normal, and by
    √(n/(n-1)); here the percentiles are moved outwards to make up for both.

    Args:
        n: How many independent rows there are; at least 2.
        statistic: Takes row numbers int[k, n] and gives float64[k], one figure for each resample.
        confidence: The confidence of the interval.
        resamples: How many resamples to draw.
        seed: Seeds the draw.
    """
    spread = math.sqrt(n / (n - 1)) * student_quantile((1 + confidence) / 2, n - 1)
    tail = NormalDist().cdf(-spread)
    found = np.concatenate([statistic(rows) for rows in _resampled_rows(n, resamples, seed)])
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_rows(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, resamples, at_once):
        yield rng.integers(0, n, (min(at_once, resamples - start), n))


def student_quantile(p: float, df: int) -> float:
    """Student's t quantile: exact for 1 and 2 degrees of freedom, above by Abramowitz & Stegun 26.7.5.

    The error is below 1 % at 3 degrees of freedom for p up to 0.975, and below 1e-4 from 9 on.
    """
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(df) ** power for power, term in enumerate(terms, start=1))
