"""Kernels in If, Loop and Scan bodies: what is stored where, what onnxruntime fuses, and what stays float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.runtime import installation
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, op_types, relative_error, run
from tests.runtime_tools import session

pytestmark = pytest.mark.skipif(
    not installation.keeps_captured_integers(), reason="this onnxruntime loses integers that a body reads from outside"
)

EVERYWHERE = QuantizeStatic(everywhere=True)
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
BRANCHES = (
    HEADER
    + """
net (bool c, float[n,8] x) => (float[n,8] y)
{
  h = MatMul (x, w)
  y = If (c) <
    then_branch = yes () => (float[n,8] a) { p = MatMul (h, w)  q = Relu (p)  a = MatMul (q, v) },
    else_branch = no () => (float[n,8] b) { b = Gemm <transB = 1> (h, w) }
  >
}
"""
)
LOOP = (
    HEADER
    + """
net (int64 count, float[n,8] x) => (float[n,8] y, float[k,n,8] all)
<bool yes = {1}>
{
  y, all = Loop (count, yes, x) <
    body = step (int64 i, bool go, float[n,8] state) => (bool on, float[n,8] next, float[n,8] seen)
    <float[8] bias = {1, -1, 1, -1, 0, 0, 1, 0}>
    { on = Identity (go)  p = Gemm (state, w, bias)  next = Tanh (p)  seen = MatMul (x, v) }
  >
}
"""
)
SCAN = (
    HEADER
    + """
net (float[2,8] start, float[t,2,8] x) => (float[2,8] y, float[t,2,8] all)
{
  y, all = Scan <num_scan_inputs = 1,
    body = step (float[2,8] state, float[2,8] row) => (float[2,8] next, float[2,8] out)
    { p = MatMul (row, w)  sum = Add (p, state)  next = Tanh (sum)  out = MatMul (next, v) }
  > (start, x)
}
"""
)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (rng.standard_normal((8, 8)) / 3).astype(np.float32) for name in ("w", "v")}


def samples(text: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    if text is BRANCHES:
        return [{"c": np.array(i % 2 == 0), "x": normal(4, 8)} for i in range(6)]
    if text is LOOP:
        return [{"count": np.array(i % 3 + 1), "x": normal(4, 8)} for i in range(6)]
    return [{"start": normal(2, 8), "x": normal(3 + i, 2, 8)} for i in range(4)]


def in_scopes(quantized: ir.Model, folder: Path) -> dict[str | None, Counter[str]]:
    """Operators of each scope that onnxruntime's optimizer leaves."""
    session(quantized, written=folder / "optimized.onnx")
    optimized = ir.load(folder / "optimized.onnx")
    return {scope.name: Counter(node.op_type for node in scope) for scope in graph.all_graphs(optimized)}


@pytest.mark.parametrize(("text", "expected"), [(BRANCHES, 4), (LOOP, 2), (SCAN, 2)])
@pytest.mark.parametrize("target", ["x86-vnni", "arm64", "tensorrt"])
def test_bodies_compute_in_integers(runner: WorkerRunner, text: str, expected: int, target: str) -> None:
    quantized = model(text, **weights())
    changes = EVERYWHERE.apply(quantized, context(runner, samples(text), target))
    assert changes.facts["kernels_quantized"] == expected
    assert invariants.check(quantized) == []
    assert graph.signature(quantized) == graph.signature(model(text, **weights()))
    for feeds in samples(text):
        for reference, candidate in zip(run(model(text, **weights()), feeds), run(quantized, feeds), strict=True):
            assert relative_error(reference, candidate) < 0.06


def test_a_captured_activation_is_quantized_once_where_it_is_made(runner: WorkerRunner, tmp_path: Path) -> None:
    quantized = model(BRANCHES, **weights())
    EVERYWHERE.apply(quantized, context(runner, samples(BRANCHES)))
    homes = {
        node.inputs[0].name: scope.name  # type: ignore[union-attr]
        for scope in graph.all_graphs(quantized)
        for node in scope
        if node.op_type == "QuantizeLinear"
    }
    assert homes == {"x": "net", "h": "net", "q": "yes"}
    ran = in_scopes(quantized, tmp_path)
    assert ran["net"]["QuantizeLinear"] == 1
    assert ran["net"]["QLinearMatMul"] == 1
    assert ran["yes"]["DequantizeLinear"] == ran["no"]["DequantizeLinear"] == 0
    assert ran["yes"]["MatMul"] == ran["no"]["Gemm"] == 0


def test_a_weight_is_stored_once_for_all_scopes(runner: WorkerRunner) -> None:
    quantized = model(BRANCHES, **weights())
    EVERYWHERE.apply(quantized, context(runner, samples(BRANCHES)))
    stored = [
        (scope.name, name)
        for scope in graph.all_graphs(quantized)
        if isinstance(scope, ir.Graph)
        for name, value in scope.initializers.items()
        if graph.static_shape(value) == (8, 8)
    ]
    assert stored == [("net", "w_quantized"), ("net", "v_quantized")]
    (first, *rest) = (use.node for use in quantized.graph.initializers["w_quantized"].uses())
    assert {node.graph.name for node in (first, *rest)} == {"net", "yes", "no"}  # type: ignore[union-attr]


def test_an_initializer_of_a_body_stays_there(runner: WorkerRunner) -> None:
    quantized = model(LOOP, **weights())
    EVERYWHERE.apply(quantized, context(runner, samples(LOOP)))
    (body,) = (scope for scope in graph.all_graphs(quantized) if scope.name == "step")
    assert isinstance(body, ir.Graph)
    assert set(body.initializers) == {"bias_quantized"}
    assert "w" not in quantized.graph.initializers


def test_what_no_sample_executed_stays_float(runner: WorkerRunner) -> None:
    quantized = model(BRANCHES, **weights())
    never = [dict(feeds, c=np.zeros((), bool)) for feeds in samples(BRANCHES)]
    changes = EVERYWHERE.apply(quantized, context(runner, never))
    reasons = {skip.node: skip.reason for skip in changes.skipped}
    assert reasons["a (MatMul)"] == "its activation q is in a body that no calibration sample executed"
    assert reasons["p (MatMul)"] == "its activation q is in a body that no calibration sample executed"
    assert op_types(quantized)["QuantizeLinear"] == 2  # x and h
    only = [dict(feeds, c=np.ones((), bool)) for feeds in never]
    reasons = {s.node: s.reason for s in EVERYWHERE.apply(model(BRANCHES, **weights()), context(runner, only)).skipped}
    assert reasons["b (Gemm)"] == "its activation b is in a body that no calibration sample executed"


def test_a_loop_pays_for_each_iteration(runner: WorkerRunner) -> None:
    """Eight tiny products in a row are not one large product."""
    changes = QuantizeStatic().apply(model(LOOP, **weights()), context(runner, samples(LOOP)))
    assert changes.rewrites == 0
    assert any("save less" in skip.reason for skip in changes.skipped)


def test_a_name_in_two_branches_means_two_values(runner: WorkerRunner) -> None:
    text = BRANCHES.replace("b = Gemm <transB = 1> (h, w)", "q = Neg (h)  b = Gemm <transB = 1> (q, w)")
    quantized = model(text, **weights())
    changes = EVERYWHERE.apply(quantized, context(runner, samples(BRANCHES)))
    assert changes.facts["kernels_quantized"] == 4
    assert graph.signature(quantized) == graph.signature(model(text, **weights()))
    for feeds in samples(BRANCHES):
        assert relative_error(run(model(text, **weights()), feeds)[0], run(quantized, feeds)[0]) < 0.06
    tiny = model(text, **weights())
    assert QuantizeStatic().apply(tiny, context(runner, samples(BRANCHES))).rewrites == 0
    assert serialize.to_bytes(tiny) == serialize.to_bytes(model(text, **weights()))


def test_a_function_stays_float_with_the_reason(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    net (float[n,8] x) => (float[n,8] y) { h = MatMul (x, w)  y = local.square (h) }
    <domain: "local", opset_import: ["" : 17]>
    square (h) => (y) { y = MatMul (h, h) }
    """
    quantized = model(text, **weights())
    feeds = [{"x": np.eye(8, dtype=np.float32)}]
    changes = EVERYWHERE.apply(quantized, context(runner, feeds))
    assert changes.facts["kernels_quantized"] == 1
    assert any(skip.reason.startswith("inside a function") for skip in changes.skipped)


def test_a_second_run_changes_nothing(runner: WorkerRunner) -> None:
    for text in (BRANCHES, LOOP, SCAN):
        quantized, ctx = model(text, **weights()), context(runner, samples(text))
        EVERYWHERE.apply(quantized, ctx)
        before = serialize.to_bytes(quantized)
        again = EVERYWHERE.apply(quantized, ctx)
        assert again.rewrites == 0
        assert serialize.to_bytes(quantized) == before
