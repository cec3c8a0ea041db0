"""Bias correction: what it moves, and that nothing else moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import invariants
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.correction import output_shift
from modelopt.quant.correction.gptq_rounding import WeightRounding
from modelopt.quant.numerics.range_methods import Method
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.correction_models import images, net, normal, rows, spread
from tests.quant_tools import context, kernels, model, run

PLAIN = QuantizeStatic(everywhere=True, per_channel=False)
CORRECTED = QuantizeStatic(everywhere=True, per_channel=False, correct_bias=True)


PRODUCT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[n,5,16] x) => (float[n,5,8] y)
{ p = MatMul (x, w)  y = Add (p, b) }
"""


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
