"""What passes for rounding, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from modelopt.measure.tolerance import Difference, Nonfinite, OutputMismatch, compare_outputs
from modelopt.runtime.protocol import numpy_dtype

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(8, 100)).astype(np.float32) * 30


def check(before: object, after: object) -> OutputMismatch | float:
    return compare_outputs([np.asarray(before)], [np.asarray(after)], ["y"])


def test_equal_outputs_are_no_error_at_all() -> None:
    assert check(LOGITS, LOGITS) == 0.0


def test_a_reordered_sum_passes_at_any_scale() -> None:
    terms = RNG.normal(size=(4096, 64)).astype(np.float32)
    for scale in (1e-20, 1.0, 1e20):
        scaled = terms * np.float32(scale)
        backwards = np.cumsum(scaled[::-1], axis=0, dtype=np.float32)[-1]
        found = check(np.cumsum(scaled, axis=0, dtype=np.float32)[-1], backwards)
        assert isinstance(found, float)
        assert 0 < found < 1e-4


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_dropped_bias_or_a_wrong_axis_is_caught_at_any_scale(scale: float) -> None:
    square = (LOGITS[:, :8] * np.float64(scale)).astype(np.float32)
    assert isinstance(check(square, square - np.float32(0.01 * abs(square).max())), OutputMismatch)
    assert isinstance(check(square, square.T), OutputMismatch)
    assert isinstance(check(square, square[::-1]), OutputMismatch)
    assert isinstance(check(square, np.zeros_like(square)), OutputMismatch)


def test_a_small_bias_everywhere_is_caught_although_each_value_is_close() -> None:
    sparse = np.zeros(1000, np.float32)
    sparse[0] = 1000
    found = check(sparse, sparse + np.float32(1.5))
    assert isinstance(found, OutputMismatch)
    assert found.max_relative_error == pytest.approx(1.5e-3)


def test_the_mismatch_says_where_and_how_much() -> None:
    wrong = LOGITS.copy()
    wrong[3, 5] += 50
    found = check(LOGITS, wrong)
    assert isinstance(found, OutputMismatch)
    assert (found.output, found.index) == ("y", (3, 5))
    assert "output 'y' at [3, 5]" in str(found)


@pytest.mark.parametrize(("name", "step"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_coarse_floats_may_round_coarsely(name: str, step: float) -> None:
    dtype = numpy_dtype(name)
    values: np.ndarray = LOGITS.astype(dtype)
    rounded: np.ndarray = (LOGITS * (1 + 4 * step)).astype(dtype)
    assert isinstance(check(values, rounded), float)
    as_float32 = values.astype(np.float32), rounded.astype(np.float32)
    assert isinstance(check(*as_float32), OutputMismatch)
    assert isinstance(check(values, (LOGITS * 1.25).astype(dtype)), OutputMismatch)


def test_a_double_may_be_a_float_that_was_cast_last() -> None:
    assert isinstance(check(LOGITS.astype(np.float64), LOGITS * np.float64(1 + 1e-7)), float)


def test_nonfinite_values_must_coincide() -> None:
    odd = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert check(odd, odd) == 0.0
    for other in ([1, np.nan, np.inf, 5], [1, 0, np.inf, -np.inf], [1, np.nan, -np.inf, -np.inf]):
        found = check(odd, np.array(other, np.float32))
        assert isinstance(found, OutputMismatch)
        assert "on one side only" in found.reason


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        ([1, np.nan], [1, np.inf], {Nonfinite.EQUAL}),
        ([1, np.nan], [1, 5], {Nonfinite.EQUAL, Nonfinite.FINITE}),
        ([1, np.inf], [1, 5], set(Nonfinite)),
        ([1, 5], [1, np.nan], set(Nonfinite)),
        ([1, np.nan], [2, np.nan], set(Nonfinite)),
    ],
)
def test_how_far_nonfinite_values_coincide_can_be_said(
    before: list[float], after: list[float], differs: set[Nonfinite]
) -> None:
    arrays = [np.array(before, np.float32)], [np.array(after, np.float32)]
    found = {each for each in Nonfinite if isinstance(compare_outputs(*arrays, ["y"], nonfinite=each), OutputMismatch)}
    assert found == differs


def test_a_mismatch_says_of_what_kind_it_is() -> None:
    for before, after, kind, share in (
        ([1, 2, 3, 4], [1, 2, 3, 5], Difference.UNEQUAL, 0.25),
        ([1.0, 2.0], [1.0, np.nan], Difference.NONFINITE, 0.5),
        ([1.0, 2.0], [1.0, 3.0], Difference.ROUNDING, 0.0),
        ([1.0, 2.0], [1.0], Difference.STRUCTURE, 0.0),
    ):
        found = check(before, after)
        assert isinstance(found, OutputMismatch)
        assert (found.kind, found.share) == (kind, share)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.float32(1), np.float64(1)),
        (np.zeros((1, 2), np.float32), np.zeros((2, 1), np.float32)),
        (np.zeros(3, np.float32), np.full(3, 1e-3, np.float32)),
    ],
)
def test_what_is_not_a_float_is_equal_and_kinds_agree(before: object, after: object) -> None:
    assert isinstance(check(before, after), OutputMismatch)


def test_zeros_scalars_and_nothing() -> None:
    assert check(np.zeros(3, np.float32), np.full(3, 1e-9, np.float32)) == 0.0
    assert check(np.float32(2), np.float32(2)) == 0.0
    assert check(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0.0
    assert check(np.array(["a"], object), np.array(["a"], object)) == 0.0
    with pytest.raises(ValueError, match="zip"):
        compare_outputs([LOGITS], [LOGITS], ["a", "b"])


def test_huge_doubles_do_not_overflow() -> None:
    huge = np.array([1e300, -1e300])
    assert isinstance(check(huge, huge * (1 + 1e-9)), float)
    assert isinstance(check(huge, -huge), OutputMismatch)
