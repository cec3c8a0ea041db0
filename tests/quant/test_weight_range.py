"""Weight ranges by search: never a larger squared error than the extremes give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from modelopt.quant.numerics import scheme, weight_range
from modelopt.quant.numerics.scheme import WEIGHTS, Grid, IntType, Symmetry
from modelopt.quant.numerics.weight_range import WeightRange, narrowed, squared_error, weight_params

GRIDS = [WEIGHTS, Grid(IntType.S8, Symmetry.SYMMETRIC, reduced=True), Grid(IntType.U8, Symmetry.ASYMMETRIC)]
weights = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-(2.0**20), 2.0**20, width=32)
)


def error(array: np.ndarray, params: scheme.QParams) -> np.ndarray:
    """As `squared_error`, in one piece."""
    difference = array - scheme.dequantize(scheme.quantize(array, params), params).astype(np.float64)
    others = tuple(i for i in range(array.ndim) if i != params.axis)
    return np.asarray(np.square(difference).sum(axis=None if params.axis is None else others))


@given(weights, st.sampled_from(GRIDS), st.integers(0, 3), st.booleans())
def test_the_search_is_in_no_channel_worse_than_the_extremes(
    array: np.ndarray, grid: Grid, axis: int, whole: bool
) -> None:
    channels = None if whole else axis % array.ndim
    wide = weight_params(array, channels, grid)
    narrow = weight_params(array, channels, grid, WeightRange.MSE)
    assert (error(array, narrow) <= error(array, wide)).all()
    assert (narrow.scale <= wide.scale).all()
    assert narrow.scale.dtype == np.float32
    assert (narrow.zero_point == wide.zero_point).all()
    assert (scheme.dequantize(scheme.quantize(np.zeros_like(array), narrow), narrow) == 0).all()


@given(weights, st.integers(0, 3))
def test_the_error_is_counted_in_pieces(array: np.ndarray, axis: int) -> None:
    params = scheme.weight_params(array, axis % array.ndim)
    np.testing.assert_allclose(squared_error(array, params), error(array, params), rtol=1e-12)


def test_the_error_of_a_large_weight_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32)
    for channels in (None, 1):
        params = scheme.weight_params(array, channels)
        whole = squared_error(array, params)
        monkeypatch.setattr(weight_range, "_CHUNK", 4)
        np.testing.assert_allclose(squared_error(array, params), whole, rtol=1e-12)
        monkeypatch.undo()


def test_an_outlier_is_cut_off_in_its_channel_alone() -> None:
    array = np.random.default_rng(0).standard_normal((2, 40_000)).astype(np.float32)
    array[0] = np.clip(array[0], -1, 1)
    array[1] = np.clip(array[1], -4, 4)
    array[1, 0] = 5.0
    wide = scheme.weight_params(array, 0)
    narrow = narrowed(array, wide)
    assert narrow.scale[1] < 0.9 * wide.scale[1]
    assert squared_error(array, narrow)[1] < 0.95 * squared_error(array, wide)[1]
    assert narrow.scale[0] >= 0.98 * wide.scale[0]
