"""What x86 without VNNI makes of integer products: the bound, the simulation, and who is told."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelopt.calibration.context import Context
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.correction import saturation_report
from modelopt.quant.numerics import im2col, saturation, scheme
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, relative_error, run

RNG = np.random.default_rng(0)
WEIGHTS = Grid(IntType.S8, Symmetry.SYMMETRIC)


@st.composite
def products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows, depth, columns = (draw(st.integers(1, most)) for most in (4, 7, 3))
    inputs, weights = (
        st.one_of(st.sampled_from(extremes), st.integers(*extremes)) for extremes in ((0, 255), (-128, 127))
    )
    return (
        draw(arrays.arrays(np.uint8, (rows, depth), elements=inputs)),
        draw(arrays.arrays(np.int8, (depth, columns), elements=weights)),
    )


def by_hand(rows: np.ndarray, weights: np.ndarray) -> tuple[int, int, np.ndarray]:
    """(pair sums, those that saturate, results) of the instruction sequence, one number at a time."""
    sums = saturated = 0
    results = np.zeros((len(rows), weights.shape[1]), np.int64)
    for r, row in enumerate(rows):
        for c in range(weights.shape[1]):
            for k in range(0, len(row), 2):
                pair = sum(int(row[i]) * int(weights[i, c]) for i in range(k, min(k + 2, len(row))))
                clipped = max(-32768, min(32767, pair))
                sums += 1
                saturated += pair != clipped
                results[r, c] += clipped
    return sums, saturated, results


@given(products())
def test_the_simulation_is_the_instruction(product: tuple[np.ndarray, np.ndarray]) -> None:
    rows, weights = product
    sums, saturated, results = by_hand(rows, weights)
    loss = saturation.simulate(rows, weights)
    exact = rows.astype(np.int64) @ weights.astype(np.int64)
    assert (loss.sums, loss.saturated) == (sums, saturated)
    assert loss.lost == float(np.sum((exact - results) ** 2))
    assert loss.exact == float(np.sum(exact**2))


@given(products())
def test_the_bound_is_exact(product: tuple[np.ndarray, np.ndarray]) -> None:
    weights = product[1]
    for column, worst in zip(weights.T, saturation.worst_pairs(weights), strict=True):
        extremes = np.stack([np.where(column > 0, 255, 0), np.where(column < 0, 255, 0)]).astype(np.uint8)
        assert (saturation.simulate(extremes, column[:, None]).saturated > 0) == (worst > saturation.MOST)


@given(arrays.arrays(np.float32, (6, 3), elements=st.floats(-4, 4, width=32)), st.booleans())
def test_fitted_scales_never_saturate_and_grow_no_more_than_that_takes(array: np.ndarray, per_channel: bool) -> None:
    params = scheme.weight_params(array, 1 if per_channel else None, WEIGHTS)
    fitted = saturation.fitted(array, params, saturation.stack)
    before, after = (saturation.worst_pairs(scheme.quantize(array, p)) for p in (params, fitted))
    assert np.all(after <= saturation.MOST)
    unchanged = fitted.scale == params.scale
    assert np.all(unchanged == (before <= saturation.MOST if per_channel else np.all(before <= saturation.MOST)))
    assert np.all(fitted.scale <= params.scale * 2.02)  # 7 bits are the worst case: 127 + 127 against 128


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "pads = [1, 0, 2, 1]",
        "strides = [2, 1], dilations = [1, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
        'auto_pad = "SAME_LOWER"',
        'auto_pad = "VALID"',
        "group = 2, pads = [1, 1, 1, 1]",
    ],
)
def test_the_rows_of_a_convolution(attributes: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (uint8[n,4,7,6] x) => (int32[n,6,h,w] y)
    {{ y = ConvInteger {f"<{attributes}>" if attributes else ""} (x, k, z) }}
    """
    channels = 2 if "group" in attributes else 4
    kernel = RNG.integers(-128, 128, (6, channels, 2, 3)).astype(np.int8)
    image = RNG.integers(0, 256, (2, 4, 7, 6)).astype(np.uint8)
    net = model(text, k=kernel, z=np.array(9, np.uint8))
    expected = np.moveaxis(run(net, {"x": image})[0], 1, -1).reshape(-1, 6)
    node = net.graph[0]
    groups = 4 // channels
    window = im2col.window_of(node, (2, 3))
    rows = saturation.conv_rows(im2col.rows(image, window, im2col.evenly(10_000), 9), groups)
    matrices = saturation.conv_matrices(kernel, groups)
    found = [(part.astype(np.int64) - 9) @ matrix for part, matrix in zip(rows, matrices, strict=True)]
    np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)
    assert len(im2col.rows(image, window, im2col.evenly(5), 9)) == 5


NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,8,6,6] x) => (float[n,5] y)
{
  c = Conv <pads = [1,1,1,1]> (x, w1)
  d = Conv <group = 8, pads = [1,1,1,1]> (c, w2)
  flat = Flatten (d)
  y = Gemm <transB = 1> (flat, w3)
}
"""


def net() -> ir.Model:
    """All weights positive, so that adjacent ones add up."""
    shapes = {"w1": (8, 8, 3, 3), "w2": (8, 1, 3, 3), "w3": (5, 288)}
    rng = np.random.default_rng(1)
    return model(NET, **{name: np.asarray(rng.random(shape) / 9, np.float32) for name, shape in shapes.items()})


def bright(runner: WorkerRunner, target: str = "x86-avx2") -> Context:
    """Samples whose values are at the top of the range."""
    rng = np.random.default_rng(2)
    feeds = [{"x": np.asarray(1 - rng.random((1, 8, 6, 6)) / 8, np.float32)} for _ in range(4)]
    return context(runner, feeds, target)


def test_kernels_that_would_saturate_are_named(runner: WorkerRunner) -> None:
    net_ = net()
    QuantizeStatic(everywhere=True, reduce_range=False).apply(net_, bright(runner, "x86-vnni"))
    skips, facts = saturation_report.report(net_, bright(runner))
    named = {skip.node.split()[0]: skip.reason for skip in skips}
    assert set(named) == {"c", "y"}  # the depthwise kernel widens first
    assert all("at risk on x86-avx2" in reason and "16-bit sums saturate" in reason for reason in named.values())
    assert facts == {"kernels_saturating": 2, "kernels_that_could_saturate": 2}


def test_seven_bits_are_at_no_risk(runner: WorkerRunner) -> None:
    net_ = net()
    QuantizeStatic(everywhere=True, reduce_range=True).apply(net_, bright(runner))
    assert saturation_report.report(net_, bright(runner)) == (
        (),
        {"kernels_saturating": 0, "kernels_that_could_saturate": 0},
    )


def test_without_samples_the_bound_is_all_there_is(runner: WorkerRunner) -> None:
    net_ = net()
    QuantizeStatic(everywhere=True, reduce_range=False).apply(net_, bright(runner, "x86-vnni"))
    skips, facts = saturation_report.report(net_, context(runner))
    assert {skip.reason for skip in skips} == {
        "some of its 16-bit sums could saturate on x86-avx2; it was not simulated"
    }
    assert facts["kernels_saturating"] == 0


def test_by_default_nothing_can_saturate_and_most_of_eight_bits_are_kept(runner: WorkerRunner) -> None:
    errors = {}
    for reduce_range in (None, True):
        net_ = net()
        changes = QuantizeStatic(everywhere=True, reduce_range=reduce_range).apply(net_, bright(runner))
        assert changes.facts["kernels_that_could_saturate"] == 0
        feeds = {"x": np.asarray(1 - np.random.default_rng(3).random((2, 8, 6, 6)) / 8, np.float32)}
        errors[reduce_range] = relative_error(run(net(), feeds)[0], run(net_, feeds)[0])
    assert errors[None] <= errors[True]


@pytest.mark.parametrize("channels", [3, 4])
def test_a_first_convolution_may_be_regrouped(runner: WorkerRunner, channels: int) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,{channels},8,8] x) => (float[n,4,h,w] y)
    {{ y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1) }}
    """
    kernel = np.random.default_rng(4).random((4, channels, 3, 3)).astype(np.float32)
    samples = [{"x": np.random.default_rng(5).random((1, channels, 8, 8)).astype(np.float32)}]
    net_ = model(text, w1=kernel)
    changes = QuantizeStatic(everywhere=True).apply(net_, context(runner, samples, "x86-avx2"))
    assert changes.rewrites > 0
    assert changes.facts["kernels_that_could_saturate"] == 0
