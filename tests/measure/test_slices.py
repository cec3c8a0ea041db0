"""Errors of slices: what is small beside its neighbours is judged by its own size."""

from __future__ import annotations

import numpy as np
import pytest

from modelopt.measure.slices import FLOOR, SliceErrors, SliceMismatch

RNG = np.random.default_rng(0)


def errors(*pairs: tuple[np.ndarray, np.ndarray]) -> SliceErrors:
    made = SliceErrors(["y"])
    for before, after in pairs:
        made.add([before], [after])
    return made


def output(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_small_slice_that_doubles_is_found(axis: int) -> None:
    before = output(2, 5, 6)
    np.moveaxis(before, axis, 0)[3] *= 1e-7
    after = before.copy()
    np.moveaxis(after, axis, 0)[3] *= 2
    found = errors((before, after)).worst()
    assert found is not None
    assert (found.axis, found.index) == (axis, 3)
    assert found.error == pytest.approx(1, rel=1e-5)
    assert f"at index 3 of axis {axis}" in str(found)


def test_a_small_place_that_doubles_is_found() -> None:
    before = output(6, 3, 4)
    before[:, 1, 2] *= 1e-7
    after = before.copy()
    after[:, 1, 2] *= 2
    found = errors((before, after)).worst()
    assert found is not None
    assert (found.axis, found.index) == (None, (1, 2))
    assert "at index [1, 2]" in str(found)


def test_rounding_is_not() -> None:
    before = output(3, 50)
    assert errors((before, before * np.float32(1 + 1e-6))).worst() is None


def test_feeds_count_alike_whatever_their_scale() -> None:
    small, large = output(4, 5), output(4, 5) * 1e6
    wrong = small.copy()
    wrong[:, 2] *= 1.01
    found = errors((small, wrong), (large, large)).worst()
    assert found is not None
    assert found.index == 2


def test_feeds_of_unlike_sizes_add_up() -> None:
    short, long = output(4, 3), output(4, 9)
    wrong = long.copy()
    wrong[:, 7] += 1
    found = errors((short, short), (long, wrong)).worst()
    assert found == SliceMismatch("y", 1, 7, found.error if found else 0)


def test_what_the_noise_explains_passes() -> None:
    before = output(4, 5)
    before[:, 1] *= 1e-9  # all that is left of sums that cancel
    after, nudged = before.copy(), before.copy()
    after[:, 1] *= 2
    nudged[:, 1] *= 1.5
    assert errors((before, after)).worst() is not None
    assert errors((before, after)).worst([errors((before, nudged))]) is None


def test_too_few_values_zeros_and_other_kinds_are_not_judged() -> None:
    lone = np.array([[1e6, 1e-3]])
    assert errors((lone, lone * [1, 2])).worst() is None
    zeros = np.zeros((8, 8))
    assert errors((zeros, zeros + 1)).worst() is None
    integers = np.arange(16).reshape(4, 4)
    assert errors((integers, integers * 2)).worst() is None
    assert errors((np.zeros((0, 4)), np.zeros((0, 4)))).worst() is None
    assert FLOOR < 1e-3
