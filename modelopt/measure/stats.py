"""Estimates with their uncertainty: percentiles, proportions, means, and differences on the same samples.

Nothing here reads a clock, and whatever is random has a seed: the same samples give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from modelopt.measure.resample import bootstrap, student_quantile

CONFIDENCE = 0.95
_TAIL_SAMPLES = 10
RESAMPLES = 2000
"""How many resamples a bootstrap draws."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A confidence interval."""

    low: float
    high: float


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate minus reference on the same samples, with its interval; None where one sample leaves none."""

    point: float
    low: float | None
    high: float | None


class Units(NamedTuple):
    """Independent units for resampling, each the sum of a score over `counts` items.

    Frames of one recording are alike, so the recording is the unit and its frames are the items; taking each frame for
    a unit would make the interval far too narrow.

    Attributes:
        sums: float64[n], the score summed over each unit's items.
        counts: float64[n], items per unit.
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over all items."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def is_binary(self) -> bool:
        """Whether each unit is one item that is right (1) or wrong (0)."""
        return bool(np.all(self.counts == 1) and np.all((self.sums == 0) | (self.sums == 1)))


def percentiles(samples_ns: Sequence[int]) -> dict[str, float | None]:
    """``p50``, ``p90``, ``p95`` and ``p99`` in nanoseconds; None where fewer than ten samples lie beyond (p50: always).

    Raises:
        ValueError: There are no samples.
    """
    if not samples_ns:
        raise ValueError("no samples")
    found: dict[str, float | None] = {"p50": float(np.median(samples_ns))}
    for percent in (90, 95, 99):
        enough = len(samples_ns) >= samples_needed(f"p{percent}")
        found[f"p{percent}"] = float(np.percentile(samples_ns, percent)) if enough else None
    return found


def samples_needed(percentile: str) -> int:
    """How many samples put ten beyond a percentile such as ``p99``: 100 for p90, 200 for p95, 1000 for p99."""
    return -(-_TAIL_SAMPLES * 100 // (100 - int(percentile.removeprefix("p"))))


def proportion_interval(successes: float, n: int) -> Interval:
    """The score interval of a proportion (Wilson 1927): honest at 0 and 1, where Wald's has no width.

    Raises:
        ValueError: n is 0, or successes do not lie in 0 to n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(low=max(0.0, center - half), high=min(1.0, center + half))


def mean_interval(units: Units) -> Interval | None:
    """Student's t interval of the mean over all items, a ratio of sums over units (Cochran 1977, §6.4).

    None for a single unit, which does not show how units vary.
    """
    n = len(units.sums)
    if n < 2:
        return None
    residuals = units.sums - units.mean * units.counts
    error = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / float(units.counts.sum())
    half = student_quantile((1 + CONFIDENCE) / 2, n - 1) * error
    return Interval(low=units.mean - half, high=units.mean + half)


def paired_difference_interval(reference: Units, candidate: Units) -> Delta:
    """Candidate minus reference, where both were scored on the same units.

    Right-or-wrong scores take the interval of Agresti & Min (2005), which keeps an honest width when the two never
    disagree; all others an expanded percentile bootstrap over units.

    Raises:
        ValueError: No units, or not as many on both sides.
    """
    n = len(reference.sums)
    if n == 0 or len(candidate.sums) != n:
        raise ValueError(f"{n} and {len(candidate.sums)} units")
    point = candidate.mean - reference.mean
    if n == 1:
        return Delta(point=point, low=None, high=None)
    if reference.is_binary and candidate.is_binary:
        return _matched_proportions(reference.sums, candidate.sums)

    def difference(rows: np.ndarray) -> np.ndarray:
        sums, counts = candidate.sums[rows].sum(axis=1), candidate.counts[rows].sum(axis=1)
        found: np.ndarray = sums / counts - reference.sums[rows].sum(axis=1) / reference.counts[rows].sum(axis=1)
        return found

    low, high = bootstrap(n, difference, CONFIDENCE, RESAMPLES, seed=0)
    return Delta(point=point, low=low, high=high)


def _matched_proportions(reference: np.ndarray, candidate: np.ndarray) -> Delta:
    """Wald's interval after half an observation was added to each cell of the 2×2 table."""
    better = float(np.sum(candidate > reference)) + 0.5
    worse = float(np.sum(candidate < reference)) + 0.5
    n = len(reference) + 2
    center = (better - worse) / n
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    half = z * math.sqrt(better + worse - (better - worse) ** 2 / n) / n
    point = float(np.mean(candidate) - np.mean(reference))
    return Delta(point=point, low=max(-1.0, center - half), high=min(1.0, center + half))
