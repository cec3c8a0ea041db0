"""Calibration methods: the range to quantize, computed from the histogram of an activation.

Percentile and entropy follow Migacz, "8-bit inference with TensorRT" (GTC 2017), generalised to grids with a zero
point. The mean squared error is that of Banner et al. 2019 (arXiv:1810.05723), computed from the histogram instead of a
fitted distribution. The moving average is the plain mean over samples, as in onnxruntime's MinMaxCalibrater: an
exponential average would depend on the order of the samples, and those of shards could not be added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from modelopt.calibration.histogram import Histogram
from modelopt.quant.numerics.scheme import Grid, Symmetry

_FRACTIONS = np.linspace(1.0, 0.1, 46)
_ROUNDS = 2
_MOST_ROUNDS = 20  # two or three are needed
_REACH = 8  # bins on either side whose median is what a bin would hold without a spike
_MIN_BINS_PER_LEVEL = 2  # with fewer, Q equals P, and the divergence of every cut is 0


class Method(Enum):
    """How the range is chosen.

    Attributes:
        MINMAX: The exact extremes.
        MOVING_AVERAGE: The mean of each sample's smallest value, and of its largest.
        PERCENTILE: Cut the rarest values off, half of them at each end.
        ENTROPY: Least Kullback-Leibler divergence between the values and their quantized image.
        MSE: Least mean squared error.
    """

    MINMAX = "minmax"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"

    @property
    def needs_histogram(self) -> bool:
        """Whether extremes are not enough."""
        return self not in {Method.MINMAX, Method.MOVING_AVERAGE}


def choose_range(histogram: Histogram, method: Method, grid: Grid, percentile: float = 99.99) -> tuple[float, float]:
    """The range to quantize, within the observed extremes; feed it to `scheme.params_from_range`.

    Args:
        histogram: The observed values.
        method: How.
        grid: The integers that the range will be mapped to.
        percentile: For PERCENTILE: how much of the values to keep, in percent, over 0 and up to 100.
    """
    if method is Method.MINMAX:
        return histogram.low, histogram.high
    if method is Method.MOVING_AVERAGE:
        return histogram.mean_low, histogram.mean_high
    if grid.symmetry is Symmetry.SYMMETRIC:
        histogram = _folded(histogram)
    if method is Method.PERCENTILE:
        low, high = _percentile(histogram, percentile, one_sided=grid.symmetry is Symmetry.SYMMETRIC)
    elif method is Method.ENTROPY:
        calm = _without_spikes(histogram)
        low, high = _least(calm, lambda lo, hi: _divergence(calm, lo, hi, _levels(grid)))
    else:
        low, high = _least_squared_error(histogram, grid)
    return (-high, high) if grid.symmetry is Symmetry.SYMMETRIC else (low, high)


def _levels(grid: Grid) -> int:
    return grid.high if grid.symmetry is Symmetry.SYMMETRIC and grid.low < 0 else grid.levels


def _without_spikes(histogram: Histogram) -> Histogram:
    """Bring bins that stand out from their surroundings down to twice their median.

    The zeros that Relu makes, and the constant values of a uniform image background, fill single bins. Such a bin in
    one level with others costs more divergence than any cut. Then the narrowest range would win, for it has the fewest
    bins in each level.
    """
    counts = histogram.counts
    if counts.size <= _REACH:
        return histogram
    around = sliding_window_view(np.pad(counts, _REACH, mode="reflect"), 2 * _REACH + 1)
    most = np.ceil(2 * np.median(around, axis=1)).astype(np.int64) + 1
    return replace(histogram, counts=np.minimum(counts, most))


def _folded(histogram: Histogram) -> Histogram:
    """The histogram of magnitudes: bin k and bin -k hold the same."""
    magnitudes = np.abs(np.arange(histogram.start, histogram.start + histogram.counts.size))
    start = int(magnitudes.min())
    counts = np.zeros(int(magnitudes.max()) - start + 1, np.int64)
    np.add.at(counts, magnitudes - start, histogram.counts)
    least = 0.0 if histogram.low <= 0 <= histogram.high else min(abs(histogram.low), abs(histogram.high))
    return Histogram(least, max(abs(histogram.low), abs(histogram.high)), start, histogram.width, counts)


def _percentile(histogram: Histogram, percentile: float, *, one_sided: bool) -> tuple[float, float]:
    # Without rounding to 6 digits, a whole number of values could become one less at one end only.
    cut = round((1.0 - percentile / 100.0) * (1.0 if one_sided else 0.5) * histogram.total, 6)
    upto = np.cumsum(histogram.counts)
    edges = histogram.edges
    first = int(np.searchsorted(upto, cut, side="right")) if not one_sided else 0
    last = int(np.searchsorted(upto, histogram.total - cut, side="left"))
    low = float(edges[min(first, edges.size - 2)])
    high = float(edges[min(last, edges.size - 2) + 1])
    return max(low, histogram.low), min(high, histogram.high)


def _least(histogram: Histogram, cost: Callable[[float, float], float]) -> tuple[float, float]:
    """Search the end with the least cost, one after the other and twice; of equal costs the wider range is taken."""
    least, most = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if least == most:
        return histogram.low, histogram.high
    low, high = least, most
    for _ in range(_ROUNDS):
        high = most * min(_FRACTIONS, key=lambda s: cost(low, most * s)) if most > 0 else most
        low = least * min(_FRACTIONS, key=lambda s: cost(least * s, high)) if least < 0 else least
    return float(low), float(high)


@dataclass(frozen=True)
class _Side:
    """The values of one sign, by magnitude: what clipping them at each of `cuts` does.

    Attributes:
        cuts: float64 magnitudes to clip at, ascending: edges of bins, and last the extreme.
        error: The sum of (x - cut)² over the values beyond each cut.
        beyond: How many values that is.
    """

    cuts: np.ndarray
    error: np.ndarray
    beyond: np.ndarray

    @classmethod
    def of(cls, magnitudes: np.ndarray, counts: np.ndarray, width: float) -> _Side:
        """For centers of bins of one `width` with ascending magnitudes."""
        if not magnitudes.size:
            return cls(np.zeros(1), np.zeros(1), np.zeros(1))
        cuts = np.append(magnitudes[:-1] + width / 2, magnitudes[-1])
        beyond, first, second = (_behind(counts * magnitudes**power) for power in range(3))
        return cls(cuts, second - 2 * cuts * first + cuts * cuts * beyond, beyond)


def _behind(values: np.ndarray) -> np.ndarray:
    """For each place the sum of what follows."""
    return np.asarray(np.append(np.cumsum(values[:0:-1])[::-1], 0.0))


def _least_squared_error(histogram: Histogram, grid: Grid) -> tuple[float, float]:
    """The range of least squared error: clipped values lose (x - cut)², the others step² / 12 in the mean.

    The exact rounding error is not used: it has a local minimum every few bins, and these differ from data to data. The
    sum used here is smooth, and nearly the same for any histogram of the values. Values in bin 0 become 0 and cost
    nothing. Each end is set to its best cut in turn, until neither changes.
    """
    centers, counts = histogram.centers, histogram.counts.astype(np.float64)
    bins = np.arange(histogram.start, histogram.start + counts.size)
    positive, negative = bins > 0, bins < 0
    above = _Side.of(centers[positive], counts[positive], histogram.width)
    below = _Side.of(-centers[negative][::-1], counts[negative][::-1], histogram.width)
    rounded = counts[positive | negative].sum()

    def best(end: _Side, other: float, lost: float) -> int:
        step = (end.cuts + other) / grid.steps
        total = end.error + (rounded - lost - end.beyond) * step * step / 12
        return int(total.size - 1 - np.argmin(total[::-1]))  # of equal errors the wider range

    high, low = above.cuts.size - 1, below.cuts.size - 1
    for _ in range(_MOST_ROUNDS):
        before = low, high
        high = best(above, below.cuts[low], below.beyond[low])
        low = best(below, above.cuts[high], above.beyond[high])
        if (low, high) == before:
            break
    return -float(below.cuts[low]), float(above.cuts[high])


def _divergence(histogram: Histogram, low: float, high: float, levels: int) -> float:
    """KL(P || Q): P the values, what is outside moved to the ends; Q each level's mass spread evenly over its bins."""
    centers, counts = histogram.centers, histogram.counts.astype(np.float64)
    inside = (centers >= low) & (centers <= high)
    if inside.sum() < min(_MIN_BINS_PER_LEVEL * levels, counts.size):
        return float("inf")
    level = np.clip(((centers - low) * (levels / (high - low))).astype(np.int64), 0, levels - 1)
    kept = np.where(inside, counts, 0.0)
    used = kept > 0
    mass = np.bincount(level, weights=kept, minlength=levels)
    share = np.bincount(level[used], minlength=levels)
    q = np.where(used, mass[level] / np.maximum(share[level], 1), 0.0)
    p = kept
    first, last = np.flatnonzero(inside)[[0, -1]]
    p[first] += counts[:first].sum()
    p[last] += counts[last + 1 :].sum()
    used = p > 0
    # A bin that holds only what was moved there has q = 0: an epsilon keeps the divergence finite and large.
    q = np.maximum(q / max(q.sum(), 1.0), 1e-12)
    p = p / p.sum()
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
