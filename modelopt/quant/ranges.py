"""Ranges of activations from one pass over the samples, in memory that does not depend on their number.

A `Collector` keeps exact extremes and counts, and a histogram whose bins lie on the multiples of a power of two.
When the range outgrows 2048 bins, pairs of neighbours join: floor(floor(x / w) / 2) = floor(x / 2w), so the counts are
at all times what one pass at the final width would have counted, in whatever order the values came. That is why
collectors of shards can be merged exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

BINS = 2048
_CHUNK = 1 << 20
_FINEST = 23  # bits below the largest magnitude: finer bins than float32's own steps would hold nothing


class Calibrator(Protocol):
    """What turns the values of one tensor into a histogram."""

    def observe(self, values: np.ndarray) -> None:
        """Count an array of floats of any shape."""
        ...

    def merge(self, other: Self) -> None:
        """Count what `other` counted."""
        ...

    def histogram(self) -> Histogram:
        """What was counted."""
        ...


@dataclass(frozen=True, eq=False)
class Histogram:
    """Finite values of one tensor.

    Attributes:
        low: The smallest value, exactly.
        high: The largest value, exactly.
        start: The first bin's lower edge is ``start * width``.
        width: The width of a bin, a power of two.
        counts: int64, one per bin, at most `BINS`.
    """

    low: float
    high: float
    start: int
    width: float
    counts: np.ndarray

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> np.ndarray:
        """float64 edges, one more than there are bins."""
        first = np.arange(self.start, self.start + self.counts.size + 1, dtype=np.float64)
        return np.asarray(first * self.width)

    @property
    def centers(self) -> np.ndarray:
        """float64 centers of the bins, held within the exact extremes."""
        edges = self.edges
        return np.asarray(np.clip((edges[:-1] + edges[1:]) / 2, self.low, self.high))


@dataclass
class Collector:
    """Counts the values of one tensor.

    Attributes:
        finite: How many finite values were seen.
        nan: How many NaN.
        inf: How many infinities.
        low: The smallest finite value; inf when there was none.
        high: The largest finite value; -inf when there was none.
    """

    finite: int = 0
    nan: int = 0
    inf: int = 0
    low: float = math.inf
    high: float = -math.inf
    _exponent: int = 0
    _start: int = 0
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def observe(self, values: np.ndarray) -> None:
        """Count an array of floats of any shape; NaN and infinities are counted apart."""
        flat = values.reshape(-1)
        for begin in range(0, flat.size, _CHUNK):
            self._observe_chunk(flat[begin : begin + _CHUNK].astype(np.float64))

    def merge(self, other: Self) -> None:
        """Count what `other` counted: the result is that of one pass over both."""
        self.nan += other.nan
        self.inf += other.inf
        if other.finite == 0:
            return
        self._widen(other.low, other.high)
        self.finite += other.finite
        bins = (np.arange(other._counts.size) + other._start) >> (self._exponent - other._exponent)
        np.add.at(self._counts, bins - self._start, other._counts)

    def histogram(self) -> Histogram:
        """What was counted.

        Raises:
            ValueError: No finite value was seen: ask `finite` first.
        """
        if self.finite == 0:
            raise ValueError("no finite value was observed")
        return Histogram(self.low, self.high, self._start, math.ldexp(1.0, self._exponent), self._counts.copy())

    def _observe_chunk(self, values: np.ndarray) -> None:
        kept = values[np.isfinite(values)]
        if kept.size < values.size:
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.inf += values.size - kept.size - nan
        if kept.size == 0:
            return
        self._widen(float(kept.min()), float(kept.max()))
        self.finite += kept.size
        bins = np.floor(np.ldexp(kept, -self._exponent)).astype(np.int64) - self._start
        self._counts += np.bincount(bins, minlength=self._counts.size)

    def _widen(self, low: float, high: float) -> None:
        """Cover [low, high] as well; the new grid depends on the extremes alone, not on the path to them."""
        low, high = min(low, self.low), max(high, self.high)
        exponent = _exponent_for(low, high)
        start = math.floor(math.ldexp(low, -exponent))
        counts = np.zeros(math.floor(math.ldexp(high, -exponent)) - start + 1, np.int64)
        if self.finite:
            bins = (np.arange(self._counts.size) + self._start) >> (exponent - self._exponent)
            np.add.at(counts, bins - start, self._counts)
        self.low, self.high = low, high
        self._exponent, self._start, self._counts = exponent, start, counts


def _exponent_for(low: float, high: float) -> int:
    """The smallest exponent whose bins cover [low, high] with at most `BINS`; it never falls as the range grows."""
    magnitude = max(abs(low), abs(high))
    exponent = max(math.frexp(magnitude)[1] - 1 - _FINEST, -149)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent
