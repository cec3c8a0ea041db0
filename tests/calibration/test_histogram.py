"""Collectors add up; ranges agree with an exact computation within a bin."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelopt.calibration.histogram import BINS, Collector, Histogram
from modelopt.quant.numerics.range_methods import Method, choose_range
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry, dequantize, params_from_range, quantize

U8 = Grid(IntType.U8, Symmetry.ASYMMETRIC)
S8 = Grid(IntType.S8, Symmetry.SYMMETRIC)
numbers = st.lists(st.floats(width=32), max_size=30)
finite = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60)


def collected(*parts: np.ndarray) -> Collector:
    collector = Collector()
    for part in parts:
        collector.observe(part)
    return collector


def assert_same(one: Collector, other: Collector) -> None:
    assert (one.finite, one.nan, one.inf) == (other.finite, other.nan, other.inf)
    if not one.finite:
        return
    left, right = one.histogram(), other.histogram()
    assert (left.low, left.high, left.start, left.width) == (right.low, right.high, right.start, right.width)
    np.testing.assert_array_equal(left.counts, right.counts)


@given(st.lists(numbers, max_size=5), st.integers(0, 5), st.sampled_from([1, 7, BINS]))
def test_shards_add_up_to_one_pass_over_their_samples(samples: list[list[float]], cut: int, bins: int) -> None:
    arrays = [np.array(sample, np.float32) for sample in samples]
    whole, merged, rest = Collector(bins), Collector(bins), Collector(bins)
    for array in arrays:
        whole.observe(array)
    for array in arrays[:cut]:
        merged.observe(array)
    for array in reversed(arrays[cut:]):
        rest.observe(array)
    merged.merge(rest)
    assert merged.state()[0] == whole.state()[0]  # sums for the moving average too: they are exact
    np.testing.assert_array_equal(merged.state()[1], whole.state()[1])


def test_collectors_of_other_grids_do_not_merge() -> None:
    with pytest.raises(ValueError, match="of 1 and 2048 bins"):
        Collector(1).merge(Collector())


@given(finite)
def test_counts_are_those_of_two_passes(values: list[float]) -> None:
    array = np.array(values, np.float32)
    histogram = collected(*np.array_split(array, 3)).histogram()
    bins = np.trunc(array.astype(np.float64) / histogram.width).astype(np.int64) - histogram.start
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=histogram.counts.size))
    edges = histogram.edges
    assert (edges[bins] <= array).all()
    assert (array <= edges[bins + 1]).all()


def test_large_arrays_are_counted_in_parts() -> None:
    array = np.random.default_rng(0).standard_normal(100_003).astype(np.float32) + 1
    histogram = collected(array).histogram()
    bins = np.trunc(array / histogram.width).astype(np.int64) - histogram.start
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=histogram.counts.size))


@given(finite, st.sampled_from([50.0, 90.0, 99.9, 100.0]))
@example([0.0] * 19 + [1.0], 90.0)
def test_percentiles_are_within_a_bin_of_the_sorted_values(values: list[float], percentile: float) -> None:
    ranked = np.sort(np.array(values, np.float32))
    histogram = collected(ranked).histogram()
    low, high = choose_range(histogram, Method.PERCENTILE, U8, percentile)
    cut = min(int(round((1.0 - percentile / 100.0) * 0.5 * ranked.size, 6)), ranked.size - 1)
    slack = 2.001 * histogram.width if low < 0 < high else 1.001 * histogram.width  # the bin of 0 has both signs
    assert abs(low - float(ranked[cut])) <= slack
    assert abs(high - float(ranked[-1 - cut])) <= slack


def test_moving_averages_are_means_over_samples() -> None:
    histogram = collected(*(np.array(part, np.float32) for part in ([-1, 4], [0.5], [], [np.nan, 2]))).histogram()
    assert choose_range(histogram, Method.MOVING_AVERAGE, U8) == ((-1 + 0.5 + 2) / 3, (4 + 0.5 + 2) / 3)


@pytest.mark.parametrize("backgrounds", [(), (0.731,), (-1.9, 0.4, 1.3)])
def test_entropy_does_not_cut_for_a_uniform_background(backgrounds: tuple[float, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(60_000).astype(np.float32) * 3
    for value in backgrounds:
        values = np.append(values, np.full(60_000, value, np.float32))
    low, high = choose_range(collected(values).histogram(), Method.ENTROPY, U8)
    assert low < -7.5
    assert high > 7.5


@given(numbers, numbers)
def test_merging_is_one_pass(a: list[float], b: list[float]) -> None:
    left, right = np.array(a, np.float32), np.array(b, np.float32)
    merged = collected(left)
    merged.merge(collected(right))
    assert_same(merged, collected(np.concatenate([left, right])))
    assert_same(merged, collected(right, left))


@given(finite)
def test_the_histogram_is_bounded_and_complete(values: list[float]) -> None:
    array = np.array(values, np.float32)
    histogram = collected(array).histogram()
    assert histogram.counts.size <= BINS
    assert histogram.total == array.size
    assert (histogram.low, histogram.high) == (array.min(), array.max())
    assert histogram.edges[0] <= histogram.low <= histogram.high <= histogram.edges[-1]


def test_nan_and_infinities_are_counted_apart() -> None:
    collector = collected(np.array([1, np.nan, np.inf, -np.inf, 2], np.float32))
    assert (collector.finite, collector.nan, collector.inf) == (2, 1, 2)
    assert (collector.low, collector.high) == (1, 2)


def test_a_collector_that_saw_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        collected(np.zeros((0, 3), np.float32)).histogram()


@pytest.mark.parametrize("value", [0.0, 3.25, -7.5, 1e-40])
@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("grid", [U8, S8])
def test_constants_have_ranges(value: float, method: Method, grid: Grid) -> None:
    low, high = choose_range(collected(np.full(10, value, np.float32)).histogram(), method, grid)
    params = params_from_range(low, high, grid)
    assert np.isfinite(params.scale)
    restored = float(dequantize(quantize(np.array([value]), params), params)[0])
    assert abs(restored - value) <= max(0.02 * abs(value), 1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([90.0, 99.0, 99.9]), st.booleans())
def test_percentiles_agree_with_sorting_within_a_bin(seed: int, percentile: float, one_sided: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(3000).astype(np.float32) ** (2 if one_sided else 3)
    histogram = collected(*np.split(values, 3)).histogram()
    low, high = choose_range(histogram, Method.PERCENTILE, U8, percentile)
    ranked = np.sort(values)
    cut = round((1 - percentile / 100) / 2 * values.size)
    slack = 1.01 * histogram.width
    assert ranked[max(cut - 1, 0)] - slack <= low <= ranked[cut + 1] + slack
    assert ranked[-2 - cut] - slack <= high <= ranked[min(-cut, -1)] + slack


@pytest.mark.parametrize("grid", [U8, S8])
def test_mse_is_close_to_the_best_of_an_exact_search(grid: Grid) -> None:
    values = np.random.default_rng(0).laplace(size=20000).astype(np.float32)
    values[:3] *= 20
    low, high = choose_range(collected(values).histogram(), Method.MSE, grid)

    def error(a: float, b: float) -> float:
        params = params_from_range(a, b, grid)
        return float(np.mean((values - dequantize(quantize(values, params), params)) ** 2))

    best = min(error(float(values.min()) * s, float(values.max()) * t) for s in _STEPS for t in _STEPS)
    assert error(low, high) <= best * 1.05
    assert error(low, high) < error(float(values.min()), float(values.max()))


_STEPS = np.linspace(0.1, 1, 19)


_SHAPES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "laplace": lambda rng: rng.laplace(size=40_000),
    "relu": lambda rng: np.maximum(rng.standard_normal(40_000), 0),
    "heavy": lambda rng: rng.standard_t(3, 40_000),
    "silu": lambda rng: (x := 3 * rng.standard_normal(40_000)) / (1 + np.exp(-x)),
    "outlier": lambda rng: np.append(rng.standard_normal(40_000), 60.0),
    "negative": lambda rng: -rng.lognormal(size=40_000),
}


@pytest.mark.parametrize("grid", [U8, S8])
@pytest.mark.parametrize("shape", list(_SHAPES))
def test_mse_is_that_of_all_values_within_a_bin(shape: str, grid: Grid) -> None:
    values = _SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    histogram = collected(*np.array_split(values, 5)).histogram()
    found = choose_range(histogram, Method.MSE, grid)
    symmetric = grid.symmetry is Symmetry.SYMMETRIC
    above = np.sort(np.abs(values) if symmetric else values[values > 0]).astype(np.float64)
    below = np.sort(-values[values < 0] if not symmetric else above[:0]).astype(np.float64)
    rounded = np.count_nonzero(np.abs(values) >= histogram.width)

    def total(low: float, high: float) -> float:
        clipped = [part[part > end] - end for part, end in ((below, low), (above, high))]
        step = (low + high) / (127 if symmetric else 255)
        kept = rounded - sum(part.size for part in clipped)
        return float(sum((part**2).sum() for part in clipped) + kept * step**2 / 12)

    low, high = (0.0 if symmetric else -found[0]), found[1]
    cuts = np.arange(-40, 41) * histogram.width / 2
    for end, extreme in ((high, above), (low, below)):
        candidates = [end + cut for cut in cuts if extreme.size and histogram.width <= end + cut <= extreme[-1]]
        if candidates:
            best = min(candidates, key=lambda c: total(low, c) if end == high else total(c, high))
            assert abs(best - end) <= 1.01 * histogram.width


def test_symmetric_percentiles_are_those_of_sorted_magnitudes() -> None:
    values = -np.random.default_rng(3).lognormal(size=20_000).astype(np.float32)
    histogram = collected(values).histogram()
    for percentile in (50.0, 90.0, 99.0, 99.9):
        ranked = np.sort(np.abs(values))
        kept = ranked[math.ceil(round(percentile / 100 * ranked.size, 6)) - 1]
        assert abs(choose_range(histogram, Method.PERCENTILE, S8, percentile)[1] - kept) <= 1.01 * histogram.width


@pytest.mark.parametrize("method", [Method.PERCENTILE, Method.ENTROPY])
@pytest.mark.parametrize("grid", [U8, S8])
def test_a_lone_outlier_is_cut(method: Method, grid: Grid) -> None:
    values = np.random.default_rng(1).standard_normal(50000).astype(np.float32)
    values[0] = 60.0
    low, high = choose_range(collected(values).histogram(), method, grid)
    assert 1.5 < high < 50
    assert low <= 0


@given(finite, st.sampled_from(list(Method)), st.sampled_from([U8, S8]))
def test_ranges_stay_within_what_was_seen(values: list[float], method: Method, grid: Grid) -> None:
    histogram = collected(np.array(values, np.float32)).histogram()
    low, high = choose_range(histogram, method, grid)
    most = max(abs(histogram.low), abs(histogram.high))
    assert low <= high
    assert -most <= low
    assert high <= most


def test_symmetric_ranges_are_of_magnitudes() -> None:
    histogram = collected(np.array([-8.0, 1.0, 2.0], np.float32)).histogram()
    assert choose_range(histogram, Method.PERCENTILE, S8, 100.0) == (-8.0, 8.0)
    assert isinstance(histogram, Histogram)
