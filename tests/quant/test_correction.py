"""Bias correction, equalization and smoothing: what they move, and that nothing else moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.equalize_layers import EqualizeLayers
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.passes.smooth_activations import SmoothActivations
from modelopt.quant.correction import output_shift
from modelopt.quant.correction.gptq_rounding import WeightRounding
from modelopt.quant.numerics import im2col
from modelopt.quant.numerics.range_methods import Method
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, kernels, model, relative_error, run

PLAIN = QuantizeStatic(everywhere=True, per_channel=False)
CORRECTED = QuantizeStatic(everywhere=True, per_channel=False, correct_bias=True)
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,3,8,8] x) => (float[n,6] y)
{
  c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1,1,1,1], group = 8> (r1, w2)
  r2 = Relu (c2)
  mean = GlobalAveragePool (r2)
  flat = Flatten (mean)
  y = Gemm <transB = 1> (flat, w3, b3)
}
"""
PRODUCT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[n,5,16] x) => (float[n,5,8] y)
{ p = MatMul (x, w)  y = Add (p, b) }
"""
NORMALIZED = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[n,5,16] x) => (float[n,5,8] y)
{
  h = LayerNormalization (x, s, b)
  q = MatMul (h, w)
  k = MatMul (h, v)
  y = Add (q, k)
}
"""


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)


def spread(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Channels of very different sizes: one scale for all of them is too coarse for most."""
    sizes = np.exp2(rng.uniform(-6, 6, (shape[0], *[1] * (len(shape) - 1))))
    return np.asarray(normal(rng, *shape) * sizes, np.float32)


def net(seed: int = 0) -> ir.Model:
    rng = np.random.default_rng(seed)
    return model(
        NET,
        w1=spread(rng, 8, 3, 3, 3),
        b1=normal(rng, 8),
        w2=normal(rng, 8, 1, 3, 3),
        w3=normal(rng, 6, 8),
        b3=normal(rng, 6),
    )


def images(n: int = 12, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8), np.float32) + 0.5} for _ in range(n)]


def rows(n: int = 12, seed: int = 1, *, outliers: float = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    scale = np.ones(16, np.float32)
    scale[3] = outliers
    return [{"x": (rng.standard_normal((1, 5, 16)) * scale + 0.25).astype(np.float32)} for _ in range(n)]


def mean_error(original: ir.Model, other: ir.Model, feeds: list[dict[str, np.ndarray]]) -> float:
    """The root mean square over channels of the mean difference."""
    differences = [run(original, feed)[0] - run(other, feed)[0] for feed in feeds]
    means = np.concatenate(differences).reshape(-1, differences[0].shape[-1]).mean(axis=0)
    return float(np.sqrt(np.mean(means**2)))


# Bias correction


def test_the_mean_error_of_the_outputs_falls(runner: WorkerRunner, tmp_path: Path) -> None:
    plain, corrected = net(), net()
    PLAIN.apply(plain, context(runner, images()))
    changes = CORRECTED.apply(corrected, context(runner, images()))

    assert changes.facts["biases_corrected"] == 3
    assert invariants.check(corrected) == []
    assert graph.signature(corrected) == graph.signature(net())
    held_out = images(seed=2)
    assert mean_error(net(), corrected, held_out) < mean_error(net(), plain, held_out) / 2
    ran = kernels(corrected, tmp_path)
    assert (ran["QLinearConv"], ran["Conv"], ran["QGemm"]) == (2, 0, 1)


def test_a_convolution_without_a_bias_gets_one_in_int32(runner: WorkerRunner) -> None:
    corrected = net()
    CORRECTED.apply(corrected, context(runner, images()))
    (node,) = (node for node in corrected.graph if graph.attribute_int(node, "group", 1) == 8)
    (dequantize,) = (use for use in [node.inputs[2].producer()] if use is not None)  # type: ignore[union-attr]
    assert graph.constant_tensor(dequantize.inputs[0]).dtype == ir.DataType.INT32  # type: ignore[union-attr]


def test_where_biases_are_floats_they_stay_floats(runner: WorkerRunner) -> None:
    corrected = net()
    changes = CORRECTED.apply(corrected, context(runner, images(), "tensorrt"))
    assert changes.facts["biases_corrected"] == 3
    for node in corrected.graph:
        if node.op_type in {"Conv", "Gemm"}:
            assert graph.constant_tensor(node.inputs[2]).dtype == ir.DataType.FLOAT  # type: ignore[union-attr]


def test_a_bias_in_the_add_behind_a_product(runner: WorkerRunner) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": spread(rng, 16, 8), "b": normal(rng, 8)}
    plain, corrected = model(PRODUCT, **weights), model(PRODUCT, **weights)
    PLAIN.apply(plain, context(runner, rows(32)))
    assert CORRECTED.apply(corrected, context(runner, rows(32))).facts["biases_corrected"] == 1
    original, held_out = model(PRODUCT, **weights), rows(64, seed=2)
    assert mean_error(original, corrected, held_out) < mean_error(original, plain, held_out)


def test_a_product_without_a_bias_keeps_none(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n,5,16] x) => (float[n,5,8] y) { y = MatMul (x, w) }
    """
    corrected = model(text, w=normal(np.random.default_rng(0), 16, 8))
    changes = CORRECTED.apply(corrected, context(runner, rows()))
    assert changes.facts["biases_corrected"] == 0
    assert any("its bias is not corrected: it has none" in skip.reason for skip in changes.skipped)


def test_kernels_in_a_body_are_not_measured(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1,16] x, bool c) => (float[1,8] y)
    {
      h = Gemm (x, w, b)
      y = If (c) <
        then_branch = one () => (float[1,8] p) { p = Gemm (h, v, b) },
        else_branch = two () => (float[1,8] q) { q = Relu (h) }
      >
    }
    """
    rng = np.random.default_rng(0)
    quantized = model(text, w=normal(rng, 16, 8), v=normal(rng, 8, 8), b=normal(rng, 8))
    feeds = [{"x": rng.standard_normal((1, 16), np.float32), "c": np.array(1, bool)} for _ in range(8)]
    repaired = QuantizeStatic(everywhere=True, correct_bias=True, rounding=WeightRounding.GPTQ)
    changes = repaired.apply(quantized, context(runner, feeds))
    assert (changes.facts["biases_corrected"], changes.facts["weights_rounded_again"]) == (1, 1)
    assert sum("inside a control-flow body it is not measured" in skip.reason for skip in changes.skipped) == 2
    assert invariants.check(quantized) == []
    run(quantized, feeds[0])


def test_a_shift_that_is_chance_is_not_corrected() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((64, 1000))
    kept = output_shift.shrunk(noise)
    assert np.mean(kept**2) < np.mean(noise.mean(axis=0) ** 2) / 2
    real = noise + 10
    assert np.allclose(output_shift.shrunk(real), real.mean(axis=0), atol=0.5)


def test_one_clipped_token_does_not_shift_the_others(runner: WorkerRunner) -> None:
    """A transformer's first token can have activations a thousand times as large as the others'; clipping cuts them."""
    rng = np.random.default_rng(0)
    weights = {"w": normal(rng, 16, 8), "b": normal(rng, 8)}

    def tokens(seed: int, *, first: float) -> list[dict[str, np.ndarray]]:
        feeds = rows(32, seed)
        for feed in feeds:
            feed["x"][0, 0, 3] = first
        return feeds

    clip = QuantizeStatic(everywhere=True, method=Method.PERCENTILE, percentile=95.0)
    plain, corrected = model(PRODUCT, **weights), model(PRODUCT, **weights)
    clip.apply(plain, context(runner, tokens(1, first=1000)))
    dataclasses.replace(clip, correct_bias=True).apply(corrected, context(runner, tokens(1, first=1000)))
    original, held_out = model(PRODUCT, **weights), tokens(2, first=0)
    assert mean_error(original, corrected, held_out) < 1.1 * mean_error(original, plain, held_out)


# WeightRounding with error feedback

GPTQ = QuantizeStatic(everywhere=True, rounding=WeightRounding.GPTQ)
DEEP = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,4,10,10] x) => (float[n,6,5,5] y)
{ y = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w) }
"""


def smooth_images(n: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Neighbours are alike, as in images: the errors of one weight can be made up for by the next."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 4, 10, 10), np.float32).cumsum(axis=3).cumsum(axis=2)} for _ in range(n)]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_error_feedback_lowers_the_error(runner: WorkerRunner, group: int) -> None:
    weight = normal(np.random.default_rng(0), 8, 4 // group, 3, 3)
    text = DEEP.replace("strides", f"group = {group}, strides").replace("[n,6,", "[n,8,")
    plain, fed_back, samples = model(text, w=weight), model(text, w=weight), smooth_images(16, 1)
    QuantizeStatic(everywhere=True).apply(plain, context(runner, samples))
    changes = GPTQ.apply(fed_back, context(runner, samples))
    assert changes.facts["weights_rounded_again"] == 1
    assert invariants.check(fed_back) == []
    scales = [
        [v.const_value.numpy().tolist() for n, v in m.graph.initializers.items() if n.endswith("_scale")]  # type: ignore[union-attr]
        for m in (plain, fed_back)
    ]
    assert scales[0] == scales[1]
    (held_out,) = smooth_images(1, 2)
    original = run(model(text, w=weight), held_out)[0]
    assert relative_error(original, run(fed_back, held_out)[0]) < relative_error(original, run(plain, held_out)[0])


@pytest.mark.parametrize("attributes", ["pads = [1,0,2,1]", "strides = [2,3]", "dilations = [2,1]", "pads = [0,0,0,0]"])
def test_rows_times_weight_are_the_convolution(attributes: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[2,4,10,10] x) => (float[a,b,c,d] y) {{ y = Conv <{attributes}> (x, w) }}
    """
    rng = np.random.default_rng(0)
    weight, images = normal(rng, 6, 4, 3, 2), rng.standard_normal((2, 4, 10, 10), np.float32)
    conv = model(text, w=weight)
    node = next(iter(conv.graph))
    found = im2col.rows(images, im2col.window_of(node, (3, 2)))
    expected = np.moveaxis(run(conv, {"x": images})[0], 1, 3).reshape(-1, 6)
    np.testing.assert_allclose(found.reshape(len(found), -1) @ weight.reshape(6, -1).T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"w": (6, 4, 3, 3), "attributes": 'auto_pad = "SAME_UPPER"'}, "padding depends on the image"),
        ({"w": (6, 4, 50, 50), "attributes": "pads = [25,25,25,25]"}, "10000 inputs"),
    ],
)
def test_what_is_rounded_to_nearest_says_why(runner: WorkerRunner, changed: dict[str, Any], reason: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,4,10,10] x) => (float[a,b,c,d] y) {{ y = Conv <{changed["attributes"]}> (x, w) }}
    """
    kept = model(text, w=normal(np.random.default_rng(0), *changed["w"]))
    changes = GPTQ.apply(kept, context(runner, smooth_images(4, 1)))
    assert changes.facts["weights_rounded_again"] == 0
    assert any(reason in skip.reason for skip in changes.skipped)


def test_where_sums_may_not_saturate_weights_stay_as_scaled(runner: WorkerRunner) -> None:
    kept = model(DEEP, w=normal(np.random.default_rng(0), 6, 4, 3, 3))
    changes = GPTQ.apply(kept, context(runner, smooth_images(4, 1), "x86-avx2"))
    assert "weights_rounded_again" not in changes.facts
    assert any("16-bit sum" in skip.reason for skip in changes.skipped)


# Equalization


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_equalized_models_give_the_same_bits(seed: int) -> None:
    equalized = net(seed)
    ctx = context(None)  # type: ignore[arg-type]
    EqualizeLayers().apply(equalized, ctx)
    for feed in images(2, seed):
        np.testing.assert_array_equal(run(net(seed), feed)[0], run(equalized, feed)[0])
    assert EqualizeLayers().apply(equalized, ctx).rewrites == 0


def test_one_scale_per_tensor_is_enough_after_equalization(runner: WorkerRunner) -> None:
    plain, equalized = net(), net()
    PLAIN.apply(plain, context(runner, images()))
    EqualizeLayers().apply(equalized, context(runner))
    PLAIN.apply(equalized, context(runner, images()))
    (held_out,) = images(1, seed=2)
    original = run(net(), held_out)[0]
    assert relative_error(original, run(equalized, held_out)[0]) < relative_error(original, run(plain, held_out)[0]) / 2


def test_numbers_that_would_leave_their_range_stay() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[n,1] x) => (float[n,1] y) { h = MatMul (x, w)  y = MatMul (h, v) }
    """
    tiny = np.array([[1e-38]], np.float32)
    kept = model(text, w=np.array([[3e38]], np.float32), v=tiny)
    EqualizeLayers().apply(kept, context(None))  # type: ignore[arg-type]
    product = float(kept.graph.initializers["w"].const_value.numpy()[0, 0])  # type: ignore[union-attr]
    product *= float(kept.graph.initializers["v"].const_value.numpy()[0, 0])  # type: ignore[union-attr]
    assert product == float(np.float32(3e38)) * float(tiny[0, 0])


# Smoothing


def normalized() -> ir.Model:
    rng = np.random.default_rng(0)
    scale = np.ones(16, np.float32)
    scale[3] = 100
    return model(NORMALIZED, s=scale, b=normal(rng, 16), w=normal(rng, 16, 8), v=normal(rng, 16, 8))


def test_outlier_columns_move_into_the_weights(runner: WorkerRunner) -> None:
    plain, smooth = normalized(), normalized()
    changes = SmoothActivations().apply(smooth, context(runner, rows()))
    assert changes.rewrites == 1
    (held_out,) = rows(1, seed=2)
    original = run(normalized(), held_out)[0]
    np.testing.assert_array_equal(original, run(smooth, held_out)[0])
    assert SmoothActivations().apply(smooth, context(runner, rows())).rewrites == 0
    quantize = QuantizeStatic(everywhere=True)
    quantize.apply(plain, context(runner, rows()))
    quantize.apply(smooth, context(runner, rows()))
    assert relative_error(original, run(smooth, held_out)[0]) < relative_error(original, run(plain, held_out)[0])


CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[n,5,16] x) => (float[n,5,4] y)
{
  h = LayerNormalization (x, s, b)
  m1 = MatMul (h, w1)
  r1 = Relu (m1)
  m2 = MatMul (r1, w2)
  a2 = Add (b2, m2)
  r2 = LeakyRelu (a2)
  y = MatMul (r2, w3)
}
"""


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), alpha=st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_smoothed_models_give_the_same_bits(runner: WorkerRunner, seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    weights = {"s": spread(rng, 16), "b": normal(rng, 16), "b2": normal(rng, 12)}
    weights |= {"w1": spread(rng, 16, 8), "w2": spread(rng, 8, 12), "w3": spread(rng, 12, 4)}
    smooth = model(CHAIN, **weights)
    SmoothActivations(alpha=alpha).apply(smooth, context(runner, rows(4)))
    for feed in rows(2, seed):
        np.testing.assert_array_equal(run(model(CHAIN, **weights), feed)[0], run(smooth, feed)[0])
    assert SmoothActivations(alpha=alpha).apply(smooth, context(runner, rows(4))).rewrites == 0


def test_masks_are_no_ranges(runner: WorkerRunner) -> None:
    masked = rows()
    masked[0]["x"][...] = np.nan
    smooth = normalized()
    changes = SmoothActivations().apply(smooth, context(runner, masked))
    assert changes.rewrites == 0
    assert any("NaN" in skip.reason for skip in changes.skipped)


def test_alpha_and_data_are_checked(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="alpha is 2"):
        SmoothActivations(alpha=2.0).apply(normalized(), context(runner, rows()))
    with pytest.raises(InputError, match="needs calibration data"):
        SmoothActivations().apply(normalized(), context(runner))
