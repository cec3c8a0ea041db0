"""QLinearConv and QLinearMatMul in place of Q/DQ: the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants
from modelopt.passes.quantize_static import QuantFormat, QuantizeStatic
from modelopt.quant.static import qoperator_writer
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import CNN, QUICK, calibration, modelopt
from tests.quant_tools import context, model, op_types, random_feeds, relative_error, run

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,3,12,12] x) => (float[n,12,9] y, float[n,5] z)
{
  c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1,1,1,1], group = 12> (r1, w2)
  r2 = Clip (c2, zero, six)
  sum = Add (r1, r2)
  flat = Reshape (sum, rows)
  p1 = MatMul (flat, w3)
  p2 = MatMul (p1, w4)
  y = MatMul (p2, w4)
  mean = GlobalAveragePool (sum)
  vector = Flatten (mean)
  z = Gemm (vector, w5, b5)
}
"""


def net() -> ir.Model:
    rng = np.random.default_rng(0)

    def normal(*shape: int, fan: int = 1) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(fan), np.float32)

    return model(
        NET,
        w1=normal(12, 3, 3, 3, fan=27),
        b1=normal(12),
        w2=normal(12, 1, 3, 3, fan=9),
        w3=normal(144, 9, fan=144),
        w4=normal(9, 9, fan=9),
        w5=normal(12, 5, fan=12),
        b5=normal(5),
        rows=np.array([0, 12, 144]),
        zero=np.zeros((), np.float32),
        six=np.full((), 6, np.float32),
    )


def feeds(n: int = 6) -> list[dict[str, np.ndarray]]:
    return random_feeds(2, 3, 12, 12, n=n)


def step_of(quantized: ir.Model, name: str) -> float:
    """The scale of an activation."""
    found = [node for node in quantized.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == name]  # type: ignore[union-attr]
    return float(graph.constant(found[0].inputs[1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["x86-vnni", "arm64"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_operators_compute_what_qdq_does(runner: WorkerRunner, target: str, *, per_channel: bool) -> None:
    ctx = context(runner, feeds(), target)
    qdq, operators = net(), net()
    QuantizeStatic(everywhere=True, per_channel=per_channel).apply(qdq, ctx)
    changes = QuantizeStatic(everywhere=True, per_channel=per_channel, format=QuantFormat.QOPERATOR).apply(
        operators, ctx
    )

    assert invariants.check(operators) == []
    assert graph.signature(operators) == graph.signature(qdq)
    counted = op_types(operators)
    assert (counted["QLinearConv"], counted["QLinearMatMul"], changes.facts["qoperators"]) == (2, 2, 4)
    assert (counted["Conv"], counted["Relu"], counted["Clip"]) == (0, 0, 0)
    assert (counted["MatMul"], counted["Gemm"]) == (1, 1)
    reasons = {skip.reason for skip in changes.skipped}
    assert any("wanted in float" in reason for reason in reasons)
    assert any("integer Gemm is onnxruntime's own" in reason for reason in reasons)
    for sample in feeds(8)[-2:]:
        for reference, candidate in zip(run(qdq, sample), run(operators, sample), strict=True):
            assert relative_error(reference, candidate) < 0.01
            if target == "x86-vnni":  # where onnxruntime computes with s8 in float between Q and DQ on x86, ties differ
                np.testing.assert_allclose(candidate, reference, atol=step_of(qdq, "x"))


def test_a_second_run_changes_nothing(runner: WorkerRunner) -> None:
    quantized, ctx = net(), context(runner, feeds())
    config = QuantizeStatic(everywhere=True, format=QuantFormat.QOPERATOR)
    config.apply(quantized, ctx)
    assert config.apply(quantized, ctx).rewrites == 0


PIECE = """
<ir_version: 8, opset_import: ["" : 17]>
net (uint8[1,4] q) => (uint8[1,4] y)
<float s = {0.5}, uint8 z = {ZERO}, float one = {1}, float ten = {200},
 int8[4,4] w = {1, 2, 3, 4, -1, -2, -3, -4, 5, 6, 7, 8, -5, -6, -7, -8}, int8 wz = {0}, float ws = {0.25}>
{
  x = DequantizeLinear (q, s, z)
  f = DequantizeLinear (w, ws, wz)
  p = MatMul (x, f)
  r = BODY
  y = QuantizeLinear (r, s, z)
}
"""


@pytest.mark.parametrize(
    ("body", "zero_point", "converts"),
    [
        ("Relu (p)", 0, True),
        ("Relu (p)", 3, False),  # Q keeps down to -1.5
        ("Clip (p, , ten)", 0, True),
        ("Clip (p, , one)", 0, False),  # Q keeps up to 127.5
        ("Clip (p, one)", 0, False),
        ("Clip (p)", 7, True),
        ("Tanh (p)", 0, False),
    ],
)
def test_a_bound_goes_where_saturation_repeats_it(body: str, zero_point: int, *, converts: bool) -> None:
    text = PIECE.replace("BODY", body).replace("ZERO", str(zero_point))
    before, after = model(text), model(text)
    assert qoperator_writer.convert(after).rewrites == converts
    assert invariants.check(after) == []
    rng = np.random.default_rng(0)
    for _ in range(5):
        sample = {"q": rng.integers(0, 256, (1, 4)).astype(np.uint8)}
        difference = run(before, sample)[0].astype(int) - run(after, sample)[0].astype(int)
        assert np.abs(difference).max() <= 1


def test_a_result_that_is_also_read_in_float_keeps_qdq() -> None:
    text = (
        PIECE.replace("BODY", "Identity (p)")
        .replace("ZERO", "0")
        .replace("=> (uint8[1,4] y)", "=> (uint8[1,4] y, float[1,4] p)")
    )
    converted = qoperator_writer.convert(model(text))
    assert converted.rewrites == 0
    assert "wanted in float" in converted.skipped[0].reason


def test_the_command_has_both(tmp_path: Path) -> None:
    flags = ("--everywhere", "--weight-range", "mse", "--format", "qoperator", "--calib", calibration("digits_cnn"))
    modelopt("quantize", CNN, *flags, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    written = ir.load(tmp_path / "x.onnx")
    assert op_types(written)["QLinearConv"] > 0


@pytest.mark.parametrize("flag", [("--weight-range", "mse"), ("--format", "qoperator")])
def test_the_command_refuses_them_for_dynamic_int8(tmp_path: Path, flag: tuple[str, str]) -> None:
    ran = modelopt("quantize", CNN, "--mode", "dynamic", *flag, "-o", "x.onnx", *QUICK, cwd=tmp_path)
    ran.failed(2, f"{flag[0]} is not for --mode dynamic")
