"""The algebra of quantization."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.quant.numerics.scheme import (
    WEIGHTS,
    Grid,
    IntType,
    Symmetry,
    bias_params,
    dequantize,
    free_dead_channels,
    params_from_range,
    quantize,
    raise_for_bias,
    weight_params,
)

GRIDS = [
    Grid(kind, symmetry, reduced)
    for kind in (IntType.U8, IntType.S8)
    for symmetry in Symmetry
    for reduced in (False, True)
]
ends = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.sampled_from(GRIDS), ends, ends, st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_error_in_range_is_half_a_step(grid: Grid, a: float, b: float, places: list[float]) -> None:
    low, high = min(a, b), max(a, b)
    params = params_from_range(low, high, grid)
    values = np.clip(low + np.array(places) * (high - low), low, high)
    error = np.abs(values - dequantize(quantize(values, params), params).astype(np.float64))
    assert (error <= float(params.scale) * (0.5 + 1e-4)).all()


@given(st.sampled_from([IntType.U16, IntType.S16]), st.sampled_from(Symmetry), ends, ends, st.floats(0, 1))
def test_the_error_of_16_bits_is_half_a_step(
    kind: IntType, symmetry: Symmetry, a: float, b: float, place: float
) -> None:
    low, high = min(a, b), max(a, b)
    params = params_from_range(low, high, Grid(kind, symmetry))
    values = np.clip(np.array([low, high, low + place * (high - low), 0.0]), low, high)
    restored = dequantize(quantize(values, params), params).astype(np.float64)
    # A float32 scale is off by 2^-24 of itself, which is up to 2^-8 of a step at the end of 65535 of them.
    assert (np.abs(values - restored) <= float(params.scale) * (0.5 + 2.0**-7)).all()
    assert dequantize(quantize(np.zeros(1), params), params)[0] == 0.0


@given(st.sampled_from(GRIDS), ends, ends)
def test_zero_is_exact_and_the_scale_is_normal(grid: Grid, a: float, b: float) -> None:
    params = params_from_range(min(a, b), max(a, b), grid)
    assert dequantize(quantize(np.zeros(1), params), params)[0] == 0.0
    assert np.finfo(np.float32).tiny <= params.scale <= np.finfo(np.float32).max
    assert params.scale.dtype == np.float32
    assert params.zero_point.dtype == grid.type.dtype
    assert grid.low <= int(params.zero_point) <= grid.high


@given(st.sampled_from(GRIDS), ends, ends, st.floats(allow_nan=False, width=32))
def test_integers_stay_on_the_grid(grid: Grid, a: float, b: float, value: float) -> None:
    integers = quantize(np.array([value]), params_from_range(min(a, b), max(a, b), grid))
    assert grid.low <= int(integers[0]) <= grid.high


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-42, 3e38])
def test_a_constant_tensor_has_a_valid_scale(value: float) -> None:
    for grid in GRIDS:
        params = params_from_range(value, value, grid)
        assert np.isfinite(params.scale)
        assert abs(float(dequantize(quantize(np.array([value]), params), params)[0]) - value) <= float(params.scale)


def test_symmetric_grids_have_zero_in_the_middle() -> None:
    assert int(params_from_range(-1, 3, Grid(IntType.S8, Symmetry.SYMMETRIC)).zero_point) == 0
    assert int(params_from_range(-1, 3, Grid(IntType.U8, Symmetry.SYMMETRIC)).zero_point) == 128


def test_reduced_weights_never_saturate_vpmaddubsw() -> None:
    grid = Grid(IntType.S8, Symmetry.SYMMETRIC, reduced=True)
    assert 2 * 255 * max(grid.high, -grid.low) <= np.iinfo(np.int16).max


def test_weights_have_one_scale_per_channel() -> None:
    array = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32) * [
        [[[1]]],
        [[[10]]],
        [[[0]]],
        [[[2]]],
    ]
    params = weight_params(array.astype(np.float32), 0)
    assert params.scale.shape == params.zero_point.shape == (4,)
    assert not params.zero_point.any()
    assert np.abs(quantize(array, params)).max(axis=(1, 2, 3)).tolist() == [127, 127, 0, 127]
    assert weight_params(array, None).scale.shape == ()


@given(
    st.lists(st.floats(1e-30, 1e3), min_size=1, max_size=8),
    st.floats(2.0**-40, 2.0**10, width=32),
    st.floats(-(2.0**20), 2.0**20, width=32),
)
def test_a_bias_always_fits_in_int32(magnitudes: list[float], activation: float, bias: float) -> None:
    array = np.array(magnitudes, np.float32)[:, None]
    biases = np.full(len(magnitudes), bias, np.float32)
    scale = np.float32(activation)
    weights = raise_for_bias(weight_params(array, 0), np.asarray(scale), biases)
    params = bias_params(weights, np.asarray(scale))
    stored = quantize(biases, params)
    assert np.abs(stored.astype(np.int64)).max(initial=0) <= 2**30 + 2**8
    np.testing.assert_allclose(dequantize(stored, params), biases, atol=float(params.scale.max()), rtol=1e-6)


def test_a_dead_channel_keeps_its_bias() -> None:
    array = np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)
    activation, bias = np.asarray(np.float32(0.02)), np.array([0.37, 0.37], np.float32)
    params = free_dead_channels(weight_params(array, 0, WEIGHTS), array, activation, bias)
    stored = bias_params(params, activation)
    np.testing.assert_allclose(dequantize(quantize(bias, stored), stored)[0], 0.37, rtol=1e-5)
