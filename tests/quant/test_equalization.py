"""Equalization and smoothing: scales move between tensors, and the float model computes the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelopt.core.errors import InputError
from modelopt.passes.equalize_layers import EqualizeLayers
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.passes.smooth_activations import SmoothActivations
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.correction_models import images, net, normal, rows, spread
from tests.quant_tools import context, model, relative_error, run

PLAIN = QuantizeStatic(everywhere=True, per_channel=False)


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
