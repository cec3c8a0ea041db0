"""The statistics, on simulated samples: no clock is read here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt.measure.resample import student_quantile
from modelopt.measure.stats import (
    Units,
    mean_interval,
    paired_difference_interval,
    percentiles,
    proportion_interval,
    samples_needed,
)


def units(values: Sequence[float] | np.ndarray) -> Units:
    """Units of one item each."""
    return Units(np.asarray(values, np.float64), np.ones(len(values)))


def test_percentiles_need_ten_samples_beyond_them() -> None:
    assert percentiles([5]) == {"p50": 5.0, "p90": None, "p95": None, "p99": None}
    known = [name for name, value in percentiles(list(range(200))).items() if value is not None]
    assert known == ["p50", "p90", "p95"]
    assert percentiles(list(range(999)))["p99"] is None
    assert percentiles(list(range(1000)))["p99"] == pytest.approx(989.01)
    assert [samples_needed(name) for name in ("p90", "p95", "p99")] == [100, 200, 1000]
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],  # Newcombe 1998
)
def test_wilson_matches_published_values(successes: int, n: int, low: float, high: float) -> None:
    found = proportion_interval(successes, n)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)


@given(st.integers(1, 10_000), st.data())
def test_wilson_contains_the_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    found = proportion_interval(successes, n)
    assert 0 <= found.low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= found.high <= 1


def test_proportions_that_cannot_be_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="successes"):
        proportion_interval(1, 0)
    with pytest.raises(ValueError, match="successes"):
        proportion_interval(3, 2)


@pytest.mark.parametrize(("df", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (99, 1.9842)])
def test_student_matches_the_tables(df: int, expected: float) -> None:
    assert student_quantile(0.975, df) == pytest.approx(expected, rel=0.002)


def test_mean_interval_of_a_textbook_sample() -> None:
    found = mean_interval(units([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found is not None
    assert [found.low, found.high] == pytest.approx([1.037, 4.963], abs=2e-3)
    assert mean_interval(units([1.0])) is None


def test_items_of_one_unit_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=10)
    alone = mean_interval(units(values))
    repeated = mean_interval(Units(values * 100, np.full(10, 100.0)))
    assert alone is not None
    assert repeated is not None
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low)


def test_models_that_never_disagree_still_leave_an_honest_interval() -> None:
    found = paired_difference_interval(units([1.0] * 100), units([1.0] * 100))
    assert found.point == 0
    assert found.low == pytest.approx(-0.019, abs=1e-3)
    assert found.high == pytest.approx(0.019, abs=1e-3)


def test_a_real_drop_is_significant_because_it_is_paired() -> None:
    reference = np.ones(1000)
    candidate = reference.copy()
    candidate[:30] = 0
    found = paired_difference_interval(units(reference), units(candidate))
    assert found.point == pytest.approx(-0.03)
    assert found.high is not None
    assert found.high < 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40))
def test_the_bootstrap_of_differences_is_seeded_and_contains_a_shift(values: list[float]) -> None:
    reference = units(values)
    shifted = units(np.array(values) + 0.25)
    found = paired_difference_interval(reference, shifted)
    assert found == paired_difference_interval(reference, shifted)
    assert found.point == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25)


def test_differences_of_one_or_no_unit() -> None:
    assert paired_difference_interval(units([1.0]), units([0.5])).low is None
    with pytest.raises(ValueError, match="units"):
        paired_difference_interval(units([]), units([]))
