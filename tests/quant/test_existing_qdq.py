"""Models that come with integers: what is there stays, what is missing is added, and our own work is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants
from modelopt.io import provenance, serialize
from modelopt.passes.base import Pass
from modelopt.passes.freeze_weights import FreezeWeights
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static import existing_qdq
from modelopt.quant.static.selection import why_already_quantized
from modelopt.recipe.pass_options import make_pass
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, kernels, model, op_types, random_feeds, relative_error, run

EVERYWHERE = QuantizeStatic(everywhere=True)
HALF = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,8] x) => (float[n,8] y)
<float xs = {0.03}, uint8 xz = {128}, float hs = {0.05}, uint8 hz = {120}>
{
  xq = QuantizeLinear (x, xs, xz)
  xd = DequantizeLinear (xq, xs, xz)
  wd = DequantizeLinear <axis = 1> (w8, ws, wz)
  h = MatMul (xd, wd)
  hq = QuantizeLinear (h, hs, hz)
  hd = DequantizeLinear (hq, hs, hz)
  k = MatMul (hd, v)
  y = MatMul (k, u)
}
"""


def half() -> ir.Model:
    rng = np.random.default_rng(0)

    def normal() -> np.ndarray:
        return (rng.standard_normal((8, 8)) / 3).astype(np.float32)

    integers = rng.integers(-127, 127, (8, 8)).astype(np.int8)
    scales = np.full(8, 0.005, np.float32)
    return model(HALF, w8=integers, ws=scales, wz=np.zeros(8, np.int8), v=normal(), u=normal())


def feeds() -> list[dict[str, np.ndarray]]:
    return random_feeds(4, 8, n=8)


def test_what_is_missing_is_added_and_what_is_there_is_used(runner: WorkerRunner, tmp_path: Path) -> None:
    quantized = half()
    changes = EVERYWHERE.apply(quantized, context(runner, feeds()))
    assert changes.facts["kernels_quantized"] == 2
    assert [skip.reason for skip in changes.skipped if skip.node == "h (MatMul)"] == [existing_qdq.ALREADY]
    assert invariants.check(quantized) == []
    assert op_types(quantized)["QuantizeLinear"] == 3  # x and h had theirs
    ran = kernels(quantized, tmp_path)
    assert ran["QLinearMatMul"] == 2
    assert ran["MatMul"] == ran["DequantizeLinear"] == 0
    held_out = feeds()[0]
    assert relative_error(run(half(), held_out)[0], run(quantized, held_out)[0]) < 0.05


def test_a_kernel_before_a_quantizer_ends_in_that(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,6,6] x) => (uint8[1,4,6,6] y)
    <float s = {0.05}, uint8 z = {128}>
    { h = Relu (x)  c = Conv (h, w)  y = QuantizeLinear (c, s, z) }
    """
    quantized = model(text, w=np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32))
    sample = {"x": np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)}
    EVERYWHERE.apply(quantized, context(runner, [sample]))
    assert op_types(quantized)["QuantizeLinear"] == 2  # of h, and the one that was there


def test_integer_operators_stay_and_their_neighbours_are_quantized(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,8] x) => (float[n,8] y)
    {
      xq, xs, xz = DynamicQuantizeLinear (x)
      product = MatMulInteger (xq, w8, xz)
      cast = Cast <to = 1> (product)
      h = Mul (cast, xs)
      y = MatMul (h, v)
    }
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "w8": rng.integers(-9, 9, (8, 8)).astype(np.int8),
        "v": rng.standard_normal((8, 8)).astype(np.float32),
    }
    quantized = model(text, **arrays)
    changes = EVERYWHERE.apply(quantized, context(runner, feeds()))
    assert changes.facts["kernels_quantized"] == 1
    assert relative_error(run(model(text, **arrays), feeds()[0])[0], run(quantized, feeds()[0])[0]) < 0.05


@pytest.mark.parametrize("reshaped", ["wd", "wt"])
def test_a_model_without_a_float_kernel_is_left_alone(runner: WorkerRunner, reshaped: str) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,8] x) => (float[n,8] y)
    { wd = DequantizeLinear <axis = 1> (w8, ws, wz)  wt = Transpose (wd)  y = MatMul (x, W) }
    """.replace("W)", f"{reshaped})")
    quantized = model(text, w8=np.ones((8, 8), np.int8), ws=np.ones(8, np.float32), wz=np.zeros(8, np.int8))
    before = serialize.to_bytes(quantized)
    changes = EVERYWHERE.apply(quantized, context(runner, feeds()))
    assert changes.rewrites == 0
    assert changes.skipped[0].reason.startswith("the model is already quantized: it holds")
    assert serialize.to_bytes(quantized) == before


def test_what_we_left_in_float_stays_so(runner: WorkerRunner) -> None:
    """In the same run by a mark, in a later one by the file's provenance."""
    quantized, ctx = half(), context(runner, feeds())
    QuantizeStatic(everywhere=True, exclude=("k",)).apply(quantized, ctx)
    again = EVERYWHERE.apply(quantized, ctx)
    assert again.rewrites == 0
    assert "already quantized" in again.skipped[0].reason

    stored = serialize.from_bytes(serialize.to_bytes(quantized))
    assert why_already_quantized(stored) is None
    entry = provenance.Entry(modelopt="0", recipe="steps: [quantize-static]", input_sha256="", target="x86-vnni")
    stored.metadata_props.update(provenance.metadata((entry,)))
    assert "already quantized" in (why_already_quantized(stored) or "")
    assert EVERYWHERE.apply(stored, ctx).rewrites == 0


def test_provenance_without_integers_says_nothing(runner: WorkerRunner) -> None:
    """A run that found nothing worth it does not keep a later one from trying."""
    plain = model('<ir_version: 8, opset_import: ["" : 17]> net (float[2] x) => (float[2] y) { y = Relu (x) }')
    entry = provenance.Entry(modelopt="0", recipe="steps: [quantize-static]", input_sha256="", target="x86-vnni")
    plain.metadata_props.update(provenance.metadata((entry,)))
    assert why_already_quantized(plain) is None


def test_one_weight_with_two_axes_and_a_float_reader(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,8] x) => (float[n,8] y, float[n,8] z, float[8,8] w, float[n,8] g)
    { y = MatMul (x, w)  z = Gemm <transB = 1> (x, w)  t = Transpose (w)  g = MatMul (x, t) }
    """
    array = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    quantized = model(text, w=array)
    changes = EVERYWHERE.apply(quantized, context(runner, feeds()))
    assert changes.facts["kernels_quantized"] == 2
    assert "w" in quantized.graph.initializers  # an output, and read in float
    assert sum(graph.static_shape(value) == (8, 8) for value in quantized.graph.initializers.values()) == 2
    for reference, candidate in zip(run(model(text, w=array), feeds()[0]), run(quantized, feeds()[0]), strict=True):
        assert relative_error(reference, candidate) < 0.05


def test_one_bias_for_two_kernels(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,8] x) => (float[n,8] y)
    { h = Gemm (x, w, b)  r = Relu (h)  y = Gemm (r, w, b) }
    """
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 8)).astype(np.float32), "b": rng.standard_normal(8).astype(np.float32)}
    quantized = model(text, **arrays)
    EVERYWHERE.apply(quantized, context(runner, feeds()))
    stored = [name for name, value in quantized.graph.initializers.items() if value.dtype == ir.DataType.INT32]
    stored = [name for name in stored if not name.endswith("zero_point")]
    assert len(stored) == 2  # each activation has its own scale, and so has each bias
    assert "b" not in quantized.graph.initializers
    assert relative_error(run(model(text, **arrays), feeds()[0])[0], run(quantized, feeds()[0])[0]) < 0.05


def test_new_nodes_keep_clear_of_names_that_nodes_have(runner: WorkerRunner) -> None:
    """Onnxruntime refuses two nodes of one name; other quantizers name theirs as we do."""
    quantized = half()
    next(node for node in quantized.graph if node.outputs[0].name == "hq").name = "k_QuantizeLinear"
    EVERYWHERE.apply(quantized, context(runner, feeds()))
    names = [node.name for node in graph.all_nodes(quantized) if node.name]
    assert len(names) == len(set(names))
    run(quantized, feeds()[0])


def test_dynamic_completes_what_static_began(runner: WorkerRunner) -> None:
    quantized, ctx = half(), context(runner, feeds())
    QuantizeStatic(everywhere=True, include=("k",)).apply(quantized, ctx)
    changes = QuantizeDynamic(everywhere=True).apply(quantized, ctx)
    assert changes.rewrites == 1
    assert {skip.node: skip.reason for skip in changes.skipped} == dict.fromkeys(
        ("h (MatMul)", "k (MatMul)"), existing_qdq.ALREADY
    )
    assert relative_error(run(half(), feeds()[0])[0], run(quantized, feeds()[0])[0]) < 0.05
    before = serialize.to_bytes(quantized)
    assert QuantizeDynamic(everywhere=True).apply(quantized, ctx).rewrites == 0
    assert EVERYWHERE.apply(quantized, ctx).rewrites == 0
    assert serialize.to_bytes(quantized) == before


@pytest.mark.parametrize("kind", [QuantizeStatic, QuantizeDynamic])
@pytest.mark.parametrize("stored", ["", "<float[2,2] w = {1, 2, 3, 4}>"])
def test_a_file_of_ir_version_3(runner: WorkerRunner, kind: type[Pass], stored: str) -> None:
    """There each initializer had to be an input; new ones are not, which version 4 allows."""
    made = "" if stored else "w = Constant <value = float[2,2] {1, 2, 3, 4}> ()"
    given = ", float[2,2] w" if stored else ""
    head = f'<ir_version: 3, opset_import: ["" : 13]> net (float[1,2] x{given}) => (float[1,2] y) {stored}'
    text = f"{head} {{ {made} y = MatMul (x, w) }}"
    quantized, ctx = model(text), context(runner, [{"x": np.array([[1, -2]], np.float32)}])
    if stored:
        assert FreezeWeights().apply(quantized, ctx).rewrites == 1
    assert make_pass(kind.name, {"everywhere": True}).apply(quantized, ctx).rewrites == 1
    run(quantized, {"x": np.ones((1, 2), np.float32)})  # onnx's checker too
