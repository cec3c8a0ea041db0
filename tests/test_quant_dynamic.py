"""Dynamic quantization on onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph, invariants
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.runtime.runner import WorkerRunner
from tests.quant_tools import context, kernels, model, op_types, relative_error, run

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((32, 32)).astype(np.float32)
FEEDS = {"x": RNG.standard_normal((3, 32)).astype(np.float32)}


@pytest.fixture(scope="module")
def runner() -> Iterator[WorkerRunner]:
    lent = WorkerRunner()
    yield lent
    lent.close()


def quantized(text: str, runner: WorkerRunner, **options: bool) -> ir.Model:
    """The model quantized, after its outputs were compared with the float ones."""
    reference = run(model(text, w=WEIGHT), FEEDS)
    result = model(text, w=WEIGHT)
    changes = QuantizeDynamic(**options).apply(result, context(runner))  # type: ignore[arg-type]
    assert changes.rewrites > 0
    assert invariants.check(result) == []
    assert graph.signature(result) == graph.signature(model(text, w=WEIGHT))
    for float_output, output in zip(reference, run(result, FEEDS), strict=True):
        assert relative_error(float_output, output) < 0.03
    again = QuantizeDynamic(**options).apply(result, context(runner))  # type: ignore[arg-type]
    assert again.rewrites == 0
    return result


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnxruntime_fuses_the_form(runner: WorkerRunner, tmp_path: Path, per_channel: bool) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,32] y)
    { h = MatMul (x, w)  r = Relu (h)  y = Gemm <transB = 1> (r, w) }
    """
    assert kernels(quantized(text, runner, per_channel=per_channel), tmp_path)["DynamicQuantizeMatMul"] == 2


def test_an_activation_is_quantized_once_and_a_weight_stored_once(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,32] y, float[n,32] z)
    { y = MatMul (x, w)  z = MatMul (x, w) }
    """
    result = quantized(text, runner)
    assert op_types(result)["DynamicQuantizeLinear"] == 1
    assert [v.dtype for v in result.graph.initializers.values() if graph.rank(v) == 2] == [ir.DataType.INT8]


def test_bodies_are_quantized_with_outer_and_inner_weights(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,32] y)
    {
      total = ReduceSum <keepdims = 0> (x)  zero = Constant <value_float = 0.0> ()  positive = Greater (total, zero)
      y = If (positive) <
        then_branch = a () => (float[n,32] p) { p = MatMul (x, w) },
        else_branch = b () => (float[n,32] q) { q = MatMul (x, w) }
      >
    }
    """
    result = quantized(text, runner)
    assert op_types(result)["MatMulInteger"] == 2
    assert "w" not in result.graph.initializers


def test_a_weight_in_a_constant_node(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,2] a) => (float[n,2] y)
    { v = Constant <value = float[2,2] {1, 2, 3, 4}> ()  y = MatMul (a, v) }
    """
    result = model(text)
    assert QuantizeDynamic().apply(result, context(runner)).rewrites == 1
    assert op_types(result)["Constant"] == 0


def test_a_float_reader_keeps_the_float_weight(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,32] y, float[32] z)
    <int64 i = {3}>
    { y = MatMul (x, w)  z = Gather (w, i) }
    """
    assert "w" in quantized(text, runner).graph.initializers


def test_convolutions_only_when_asked_for(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,4,7,3] y)
    <int64[4] shape = {-1, 1, 8, 4}>
    { image = Reshape (x, shape)  y = Conv (image, k, b) }
    """
    tensors = {"k": RNG.standard_normal((4, 1, 2, 2)).astype(np.float32), "b": np.arange(4, dtype=np.float32)}
    reference = run(model(text, **tensors), FEEDS)[0]
    result = model(text, **tensors)
    assert QuantizeDynamic().apply(result, context(runner)).rewrites == 0
    assert QuantizeDynamic(conv=True).apply(result, context(runner)).rewrites == 1
    assert op_types(result)["ConvInteger"] == 1
    assert relative_error(reference, run(result, FEEDS)[0]) < 0.05


def test_an_old_opset_is_upgraded(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 5, opset_import: ["" : 9]>
    net (float[n,32] x) => (float[n,32] y)
    { y = MatMul (x, w) }
    """
    assert graph.opset(quantized(text, runner)) >= 11


def test_x86_without_vnni_keeps_seven_bits(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,32] x) => (float[n,32] y)
    { y = MatMul (x, w) }
    """
    result = model(text, w=WEIGHT)
    changes = QuantizeDynamic().apply(result, context(runner, target="x86-avx2"))
    assert "7 bits" in str(changes.facts["weights"])
    assert np.abs(graph.constant(result.graph.initializers["w_quantized"]).astype(int)).max() == 63  # type: ignore[union-attr]
