"""A streaming histogram of one tensor, in memory that depends neither on the number of values nor on their order.

A `Collector` keeps exact extremes and counts, and a histogram whose bin width w is a power of two: bin k counts the
values whose quotient x / w, cut off towards zero, is k. When the range becomes too large for the bins, w doubles and
pairs of bins are added: cut(cut(x / w) / 2) = cut(x / 2w). So the counts are always those that one pass with the final
width would give, in any order of the values. Therefore collectors of shards can be merged exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import msgspec
import numpy as np

from modelopt.calibration import bincount

BINS = 2048
"""Bins of a histogram; a collector with one bin keeps the extremes only, at a tenth of the cost."""

_FINEST = 23  # bits below the largest magnitude: finer bins than float32's own steps would hold nothing
_LEAST_EXPONENT = -120  # so that a bin's width and its reciprocal are normal float32
_UNIT = 149  # float32 are multiples of 2^-149: sums of them are kept as integers, and are exact


@dataclass(frozen=True, eq=False)
class Histogram:
    """Finite values of one tensor.

    Attributes:
        low: The smallest value, exactly.
        high: The largest value, exactly.
        start: The number k of the first bin. Bin k covers [k·w, (k+1)·w); for k < 0 ((k-1)·w, k·w]; for 0 (-w, w).
        width: The step w, a power of two.
        counts: int64, one per bin, at most `BINS`.
        mean_low: The mean of the samples' smallest values.
        mean_high: The mean of the samples' largest values.
    """

    low: float
    high: float
    start: int
    width: float
    counts: np.ndarray
    mean_low: float = 0.0
    mean_high: float = 0.0

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> np.ndarray:
        """float64 edges, one more than there are bins."""
        bins = np.arange(self.start, self.start + self.counts.size, dtype=np.float64)
        upper = bins[-1] + (bins[-1] >= 0)
        return np.append(np.where(bins > 0, bins, bins - 1), upper) * self.width

    @property
    def centers(self) -> np.ndarray:
        """float64 centers of the bins, held within the exact extremes."""
        edges = self.edges
        return np.asarray(np.clip((edges[:-1] + edges[1:]) / 2, self.low, self.high))


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A collector as plain data, without its counts; sums are hexadecimal, for they exceed JSON's integers."""

    bins: int
    samples: int
    finite: int
    nan: int
    inf: int
    low: float | None
    high: float | None
    low_sum: str
    high_sum: str
    exponent: int
    start: int


@dataclass
class Collector:
    """Counts the values of one tensor.

    Attributes:
        bins: At most so many bins; 1 for extremes alone.
        samples: How many arrays held a finite value.
        finite: How many finite values were seen.
        nan: How many NaN.
        inf: How many infinities.
        low: The smallest finite value; inf when there was none.
        high: The largest finite value; -inf when there was none.
    """

    bins: int = BINS
    samples: int = 0
    finite: int = 0
    nan: int = 0
    inf: int = 0
    low: float = math.inf
    high: float = -math.inf
    _low_sum: int = 0
    _high_sum: int = 0
    _exponent: int = 0
    _start: int = 0
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def observe(self, values: np.ndarray) -> None:
        """Count one sample: an array of floats of any shape, as float32. NaN and infinities are counted apart."""
        flat = values.reshape(-1)
        low, high = math.inf, -math.inf
        step = bincount.part()
        for begin in range(0, flat.size, step):
            chunk = np.ascontiguousarray(flat[begin : begin + step], np.float32)
            least, most = float(chunk.min()), float(chunk.max())
            if not math.isfinite(least - most):
                chunk = self._finite_part(chunk)
                if not chunk.size:
                    continue
                least, most = float(chunk.min()), float(chunk.max())
            low, high = min(low, least), max(high, most)
            self._count(chunk, least, most)
        if low <= high:
            self.samples += 1
            self._low_sum += _units(low)
            self._high_sum += _units(high)

    def merge(self, other: Self) -> None:
        """Count what `other` counted: the result is that of one pass over both.

        Raises:
            ValueError: The two keep different numbers of bins.
        """
        if self.bins != other.bins:
            raise ValueError(f"collectors of {self.bins} and {other.bins} bins")
        self.nan += other.nan
        self.inf += other.inf
        self.samples += other.samples
        self._low_sum += other._low_sum
        self._high_sum += other._high_sum
        if other.finite == 0:
            return
        self._widen(other.low, other.high)
        self.finite += other.finite
        bins = _coarser(other._start, other._counts.size, self._exponent - other._exponent)
        np.add.at(self._counts, bins - self._start, other._counts)

    def histogram(self) -> Histogram:
        """What was counted.

        Raises:
            ValueError: No finite value was seen: ask `finite` first.
        """
        if self.finite == 0:
            raise ValueError("no finite value was observed")
        means = (_mean(self._low_sum, self.samples), _mean(self._high_sum, self.samples))
        width = math.ldexp(1.0, self._exponent)
        return Histogram(self.low, self.high, self._start, width, self._counts.copy(), *means)

    def state(self) -> tuple[State, np.ndarray]:
        """The collector as plain data, and the int64 counts; `restored` reads them."""
        low, high = (self.low, self.high) if self.finite else (None, None)
        sums = (hex(self._low_sum), hex(self._high_sum))
        numbers = (self.samples, self.finite, self.nan, self.inf, low, high, *sums, self._exponent, self._start)
        return State(self.bins, *numbers), self._counts

    @classmethod
    def restored(cls, state: State, counts: np.ndarray) -> Self:
        """The collector that `state` and `counts` came from.

        Raises:
            ValueError: No collector has such a state.
        """
        made = cls(state.bins, state.samples, state.finite, state.nan, state.inf)
        if state.low is not None and state.high is not None and 0 < state.bins <= BINS:
            made._widen(state.low, state.high)
            made._low_sum, made._high_sum = int(state.low_sum, 16), int(state.high_sum, 16)
        grid = (state.exponent, state.start, counts.size)
        fits = grid == (made._exponent, made._start, made._counts.size)
        if not fits or counts.sum() != state.finite or (counts < 0).any():
            raise ValueError("counts, range and totals do not fit each other")
        made._counts = counts.astype(np.int64)
        return made

    def _finite_part(self, values: np.ndarray) -> np.ndarray:
        kept = np.asarray(values[np.isfinite(values)])
        nan = int(np.isnan(values).sum())
        self.nan += nan
        self.inf += values.size - kept.size - nan
        return kept

    def _count(self, values: np.ndarray, low: float, high: float) -> None:
        if low < self.low or high > self.high:
            self._widen(low, high)
        self.finite += values.size
        bincount.add(values, math.ldexp(1.0, -self._exponent), self._start, self._counts)

    def _widen(self, low: float, high: float) -> None:
        """Cover [low, high] as well; the new grid depends on the extremes alone, not on the path to them."""
        low, high = min(low, self.low), max(high, self.high)
        exponent = _exponent_for(low, high, self.bins)
        start = math.trunc(math.ldexp(low, -exponent))
        counts = np.zeros(math.trunc(math.ldexp(high, -exponent)) - start + 1, np.int64)
        if self.finite:
            bins = _coarser(self._start, self._counts.size, exponent - self._exponent)
            np.add.at(counts, bins - start, self._counts)
        self.low, self.high = low, high
        self._exponent, self._start, self._counts = exponent, start, counts


@dataclass(frozen=True)
class Observed:
    """What samples showed of some tensors.

    Attributes:
        collectors: By key.
        other: By key, the dtype of values that are not float32; they were not counted.
        samples: How many samples were run.
        peak_bytes: The peak memory of the process that ran them; None when nothing was run.
    """

    collectors: Mapping[str, Collector]
    other: Mapping[str, str]
    samples: int
    peak_bytes: int | None = None


def _exponent_for(low: float, high: float, bins: int) -> int:
    """The smallest exponent whose bins cover [low, high] with at most `bins`; it never falls as the range grows."""
    magnitude = max(abs(low), abs(high))
    exponent = max(math.frexp(magnitude)[1] - 1 - _FINEST, _LEAST_EXPONENT)
    while math.trunc(math.ldexp(high, -exponent)) - math.trunc(math.ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent


def _coarser(start: int, size: int, steps: int) -> np.ndarray:
    """Where the bins start, start + 1 … are after the width was doubled `steps` times."""
    bins = np.arange(start, start + size)
    return np.asarray(np.sign(bins) * (np.abs(bins) >> steps))


def _units(value: float) -> int:
    """A float32 as a multiple of the smallest one."""
    numerator, denominator = value.as_integer_ratio()
    return numerator * ((1 << _UNIT) // denominator)


def _mean(total: int, count: int) -> float:
    return total / (count << _UNIT)
