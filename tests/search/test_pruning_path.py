"""The greedy path over widths, and the place on it that keeps the contract. No clock, no model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.pruning.channel_work import candidate_widths
from modelopt.search.pruning_path import ErrorCurve, PathStep, farthest, first_within, path, scanned_widths

WIDTHS = {"a": 64, "b": 64, "c": 32}
CHOICES = {"a": (48, 32, 16), "b": (48, 32, 16), "c": ()}


def test_what_saves_most_for_its_loss_goes_first() -> None:
    curves = {"a": ErrorCurve(0.5, 0.01, 1.0), "b": ErrorCurve(0.5, 0.04, 1.0), "c": ErrorCurve(0.5, 1.0, 1.0)}
    steps = path(
        WIDTHS,
        CHOICES,
        lambda widths, group, width: 10.0 * (widths[group] - width),
        lambda group, width: curves[group].at(1 - width / WIDTHS[group]),
        2000.0,
    )
    assert [step.widths["a"] for step in steps[:2]] == [64, 16]  # each channel of it loses a quarter
    assert steps[-1].widths == {"a": 16, "b": 16, "c": 32}
    assert steps[-1].cost == 2000 - 10 * 96
    assert [step.error for step in steps] == sorted(step.error for step in steps)


def test_a_width_that_saves_nothing_is_jumped_over() -> None:
    def saving(widths: Mapping[str, int], group: str, width: int) -> float:
        taken = {64: 100.0, 48: 120.0, 32: 60.0, 16: 60.0}  # 48 leaves the fast path, 16 is no faster than 32
        return taken[widths[group]] - taken[width]

    steps = path({"a": 64}, {"a": (48, 32, 16)}, saving, lambda _, width: (64 - width) / 64, 100.0)
    assert [step.widths["a"] for step in steps] == [64, 32]


def test_a_group_whose_removal_fails_stays_whole() -> None:
    steps = path(
        WIDTHS, CHOICES, lambda *_: 1.0, lambda group, width: math.inf if group == "a" and width < 64 else 0.0, 9.0
    )
    assert {step.widths["a"] for step in steps} == {64}


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 60))
def test_bisection_ends_at_a_place_that_keeps_the_contract(last: int, enough: int, start: int) -> None:
    steps = [PathStep({}, 100.0 - place, float(place)) for place in range(last + 1)]
    tried: list[int] = []

    def keeps(place: int) -> bool:
        tried.append(place)
        return place <= enough

    assert farthest(steps, min(start, last), last, keeps, 20) == min(enough, last)
    assert len(tried) == len(set(tried)) <= 8


def test_bisection_ends_after_so_many_tries_with_the_best_so_far() -> None:
    steps = [PathStep({}, 1000.0 - place, 0.0) for place in range(1001)]
    assert farthest(steps, 500, 1000, lambda place: place <= 700, 2) == 500


def test_the_first_place_within_all_limits() -> None:
    steps = [PathStep({}, cost, 0.0) for cost in (9.0, 5.0, 3.0)]
    assert first_within(steps, lambda step: step.cost <= 5) == 1
    assert first_within(steps, lambda step: step.cost <= 1) is None


@pytest.mark.parametrize(
    ("points", "share", "error"),
    [
        ([(0.25, 0.01), (0.5, 0.04)], 0.75, 0.09),  # the power is 2
        ([(0.5, 0.04)], 0.25, 0.01),  # one point: the power is 2
        ([(0.25, 0.05), (0.5, 0.04)], 0.25, 0.01),  # falling: noise
        ([(0.25, 0.0), (0.5, 0.0)], 0.9, 0.0),
        ([(0.25, 0.01), (0.5, 0.04)], 0.0, 0.0),
    ],
)
def test_an_error_grows_with_a_power_of_the_share(
    points: list[tuple[float, float]], share: float, error: float
) -> None:
    assert ErrorCurve.through(points).at(share) == pytest.approx(error)


@pytest.mark.parametrize(
    ("width", "align", "levels", "least", "expected"),
    [
        (64, 16, 10, 1, (48, 32, 16)),
        (24, 16, 10, 1, (20, 16, 12, 8, 4)),  # four multiples at least: of 4
        (12, 1, 3, 2, (11, 6, 2)),
        (512, 8, 4, 64, (504, 360, 208, 64)),
        (1, 16, 10, 1, ()),
    ],
)
def test_widths_to_choose_from_are_multiples(
    width: int, align: int, levels: int, least: int, expected: tuple[int, ...]
) -> None:
    assert candidate_widths(width, align, levels, least=least) == expected


def test_two_widths_of_a_group_are_measured() -> None:
    assert scanned_widths((48, 32, 16), 64) == [48, 32]
    assert scanned_widths((1,), 2) == [1]
    assert scanned_widths((), 2) == []


@pytest.mark.parametrize(("enough", "found"), [(1, 0), (40, 32)])
def test_bisection_ends_where_time_does_with_what_it_has(enough: int, found: int) -> None:
    steps = [PathStep({}, 64.0 - place, float(place)) for place in range(65)]
    tried: list[int] = []

    def keeps(place: int) -> bool:
        tried.append(place)
        return place <= enough

    assert farthest(steps, 32, 64, keeps, 20, is_over=lambda: True) == found
    assert len(tried) == 2  # after one there might be nothing to keep
