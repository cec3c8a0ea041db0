"""How weights are rounded to few bits: errors, clipping, HQQ, GPTQ and packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelopt.quant.numerics import blocks, hqq
from modelopt.quant.numerics.blocks import BlockGrid, BlockParams
from modelopt.quant.numerics.gptq import gptq, objective
from modelopt.quant.numerics.hessian import Hessian

RNG = np.random.default_rng(0)
grids = st.builds(BlockGrid, st.sampled_from([2, 4, 8]), st.sampled_from([16, 32, 64]), st.booleans())


matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 70)),
    elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


# The numbers


@given(matrices, grids)
@settings(max_examples=60, deadline=None)
def test_the_error_is_at_most_half_a_step(weight: np.ndarray, grid: BlockGrid) -> None:
    params = blocks.params_of(weight, grid)
    integers = blocks.quantize(weight, params, grid)
    assert integers.max(initial=0) <= grid.high
    steps = np.repeat(params.scale, grid.block, axis=1)[:, : weight.shape[1]]
    error = np.abs(blocks.dequantize(integers, params, grid).astype(np.float64) - weight)
    assert (error <= steps / 2 * (1 + 1e-3)).all()
    zeros = blocks.dequantize(blocks.quantize(np.zeros_like(weight), params, grid), params, grid)
    assert not zeros.any()


@given(matrices, grids)
@settings(max_examples=40, deadline=None)
def test_clipping_never_adds_squared_error(weight: np.ndarray, grid: BlockGrid) -> None:
    wide, clipped = (blocks.params_of(weight, grid, clip=clip) for clip in (False, True))
    before, after = (
        np.square(blocks.dequantize(blocks.quantize(weight, p, grid), p, grid).astype(np.float64) - weight).sum()
        for p in (wide, clipped)
    )
    assert after <= before * (1 + 1e-5)


def hqq_loss(weight: np.ndarray, params: BlockParams, grid: BlockGrid) -> np.ndarray:
    """The sum of |w - dq(q(w))|^p of each block, float64 of shape (N, B)."""
    restored = blocks.dequantize(blocks.quantize(weight, params, grid), params, grid)
    losses = np.abs(weight.astype(np.float64) - restored) ** hqq.P
    return np.add.reduceat(losses, range(0, weight.shape[1], grid.block), axis=1)


@given(matrices, grids, st.booleans())
@settings(max_examples=40, deadline=None)
def test_hqq_is_never_worse_than_rounding_in_its_own_norm(weight: np.ndarray, grid: BlockGrid, clip: bool) -> None:
    start = blocks.params_of(weight, grid, clip=clip)
    refined = hqq.refine(weight, start, grid)
    assert (hqq_loss(weight, refined, grid) <= hqq_loss(weight, start, grid) * (1 + 1e-4)).all()


def test_hqq_improves_ordinary_weights() -> None:
    weight = RNG.standard_t(3, size=(64, 128)).astype(np.float32)
    grid = BlockGrid(4, 32, symmetric=False)
    start = blocks.params_of(weight, grid)
    assert hqq_loss(weight, hqq.refine(weight, start, grid), grid).sum() < 0.99 * hqq_loss(weight, start, grid).sum()


@given(st.data(), st.sampled_from([2, 4, 8]))
@settings(max_examples=40, deadline=None)
def test_packing_round_trips(data: st.DataObject, bits: int) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    integers = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = blocks.pack(integers, bits)
    assert packed.shape == (shape[0], -(-shape[1] * bits // 8))
    unpacked = (packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
    assert (unpacked.reshape(shape[0], -1)[:, : shape[1]] == integers).all()


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 150), st.sampled_from([2, 4, 8]))
@settings(max_examples=30, deadline=None)
def test_gptq_is_never_worse_than_rounding(seed: int, rows: int, width: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, width)).astype(np.float32)
    inputs = rng.standard_normal((rng.integers(1, 200), width)) @ rng.standard_normal((width, width))
    inputs[:, rng.random(width) < 0.2] = 0  # inputs that are never seen
    seen = Hessian(width)
    seen.observe(inputs.astype(np.float32))
    scale = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1))
    zero_point, high = np.full((rows, 1), 2 ** (bits - 1)), 2**bits - 1
    matrix = seen.matrix()
    integers = gptq(weight, matrix, scale, zero_point, 0, high)
    nearest = np.clip(np.rint(weight / scale + zero_point), 0, high).astype(np.int32)
    assert integers.min() >= 0
    assert integers.max() <= high
    ours, theirs = (objective(weight, q, matrix, scale, zero_point) for q in (integers, nearest))
    assert (ours <= theirs * (1 + 1e-9) + 1e-12).all()


def test_gptq_halves_the_error_of_correlated_inputs() -> None:
    inputs = RNG.standard_normal((500, 96)) @ RNG.standard_normal((96, 96))
    weight = RNG.standard_normal((32, 96)).astype(np.float32)
    matrix = inputs.T @ inputs / len(inputs)
    scale, zero_point = np.abs(weight).max(axis=1, keepdims=True) / 7, np.zeros((32, 1))
    integers = gptq(weight, matrix, scale, zero_point, -8, 7)
    nearest = np.rint(weight / scale)
    ours, theirs = (objective(weight, q, matrix, scale, zero_point).sum() for q in (integers, nearest))
    assert ours < theirs / 2


def test_gptq_without_observations_rounds_to_nearest() -> None:
    weight = np.array([[0.4, 1.6]], np.float32)
    assert gptq(weight, np.zeros((2, 2)), np.ones(()), np.zeros(()), -8, 7).tolist() == [[0, 2]]


def test_a_hessian_leaves_out_rows_that_are_not_finite() -> None:
    rows = RNG.standard_normal((2, 30, 8)).astype(np.float32)
    seen = Hessian(8)
    seen.observe(rows)
    seen.observe(np.array([[np.nan] * 8, [np.inf] * 8], np.float32))
    assert seen.rows == 60
    np.testing.assert_allclose(seen.matrix(), np.einsum("bni,bnj->ij", rows, rows) / 60, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="do not end in 8"):
        seen.observe(np.zeros((3, 7), np.float32))
