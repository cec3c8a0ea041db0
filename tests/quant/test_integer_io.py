"""Models whose inputs and outputs are integers, and those who measure them in floats."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelopt.core import targets
from modelopt.core.targets import TargetKind
from modelopt.graph import invariants
from modelopt.graph.quantized_io import KEY, IntegerIo, QuantizationParameters, declared
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static.io_types import make_integer
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import CNN, calibration, evaluation, modelopt
from tests.quant_tools import context, model, run
from tests.runtime_tools import session

RNG = np.random.default_rng(0)
CALIB, EVAL = calibration("digits_cnn"), evaluation("digits_cnn")
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,8] x, float[n,8] skip) => (float[n,8] y, float[n,8] z)
{
  h = MatMul (x, w)
  r = Relu (h)
  y = MatMul (r, v)
  z = Mul (skip, r)
}"""
U8 = QuantizationParameters("uint8", 0.5, 10)


def quantized(runner: WorkerRunner, *, integer_io: bool = True) -> tuple[ir.Model, list[str]]:
    rng = np.random.default_rng(0)
    made = model(NET, **{name: rng.standard_normal((8, 8)).astype(np.float32) for name in "wv"})
    feeds = [{name: rng.standard_normal((4, 8)).astype(np.float32) for name in ("x", "skip")} for _ in range(8)]
    changes = QuantizeStatic(everywhere=True, integer_io=integer_io).apply(made, context(runner, feeds))
    return made, [f"{skip.node}: {skip.reason}" for skip in changes.skipped]


def test_the_rim_is_integers_where_it_is_quantized(runner: WorkerRunner) -> None:
    made, reasons = quantized(runner)
    types = {value.name: value.dtype for value in (*made.graph.inputs, *made.graph.outputs)}
    assert types == {
        "x": ir.DataType.UINT8,
        "skip": ir.DataType.FLOAT,
        "y": ir.DataType.UINT8,
        "z": ir.DataType.FLOAT,
    }
    assert "skip: this input stays float32: nodes read it in float" in reasons
    assert "z: this output stays float32: it is made in float" in reasons
    assert not invariants.check(made)


def test_the_metadata_say_what_the_integers_stand_for(runner: WorkerRunner) -> None:
    integers, floats = (quantized(runner, integer_io=integer_io)[0] for integer_io in (True, False))
    io = declared(integers.metadata_props)
    feeds = {name: RNG.standard_normal((4, 8)).astype(np.float32) for name in ("x", "skip")}
    y, z = run(integers, {**feeds, "x": io.inputs["x"].quantize(feeds["x"])})
    assert y.dtype == np.uint8
    expected = run(floats, feeds)
    step = io.outputs["y"].scale
    assert np.abs(io.outputs["y"].dequantize(y) - expected[0]).max() <= step / 2 + 1e-5  # that one stays float
    np.testing.assert_array_equal(z, expected[1])


def test_an_input_that_is_read_twice_with_other_scales_stays_float() -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[4] x) => (float[4] y, float[4] x2)
<float one = {0.1}, float two = {0.2}, uint8 zero = {0}>
{
  a = QuantizeLinear (x, one, zero)
  b = QuantizeLinear (x, two, zero)
  y = DequantizeLinear (a, one, zero)
  x2 = DequantizeLinear (b, two, zero)
}"""
    made = ir.from_onnx_text(text)
    converted = make_integer(made)
    assert converted.io.inputs == {}
    assert set(converted.io.outputs) == {"y", "x2"}
    assert [value.name for value in made.graph.outputs] == ["y", "x2"]
    assert not invariants.check(made)


def test_an_input_that_goes_straight_out_stays_float() -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[4] x) => (float[4] y)
<float one = {0.1}, uint8 zero = {0}>
{
  a = QuantizeLinear (x, one, zero)
  y = DequantizeLinear (a, one, zero)
}"""
    made = ir.from_onnx_text(text)
    converted = make_integer(made)
    assert [value.dtype for value in made.graph.inputs] == [ir.DataType.UINT8]
    assert converted.io.outputs == {}  # its integers are an input themselves
    assert not invariants.check(made)


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-100, 100, width=32)))
def test_integers_are_within_half_a_step(values: np.ndarray) -> None:
    inside = np.clip(values, (0 - 10) * 0.5, (255 - 10) * 0.5)
    assert np.all(np.abs(U8.dequantize(U8.quantize(values)) - inside) <= 0.25)
    assert U8.dequantize(U8.quantize(np.zeros(3, np.float32))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"inputs": {"x": ["float32", 1.0, 0]}}',
        '{"inputs": {"x": {"dtype": "uint8", "scale": 0, "zero_point": 0}}}',
        '{"inputs": {"x": {"dtype": "uint8", "scale": 1e999, "zero_point": 0}}}',
        '{"inputs": {"x": {"dtype": "uint8", "scale": 1e-320, "zero_point": 0}}}',
        '{"outputs": {"x": {"dtype": "int8", "scale": 1.0, "zero_point": 200}}}',
    ],
)
def test_metadata_that_make_no_sense_say_nothing(text: str) -> None:
    assert declared({KEY: text}) == IntegerIo()


def test_metadata_that_lie_change_nothing() -> None:
    lie = IntegerIo({"x": QuantizationParameters("uint8", 0.5, 0)}, {"y": QuantizationParameters("uint8", 0.5, 0)})
    assert lie.where({"x": "float32"}, {"y": "int8"}) == IntegerIo()
    assert lie.where({"x": "uint8"}, {"y": "uint8"}) == lie


def test_a_float_model_whose_metadata_lie_is_measured_as_it_is(tmp_path: Path) -> None:
    liar = onnx.load(CNN)
    lie = msgspec.json.encode(
        IntegerIo(
            {"image": QuantizationParameters("uint8", 0.5, 0)}, {"logits": QuantizationParameters("int8", 1.0, 0)}
        )
    )
    liar.metadata_props.add(key=KEY, value=lie.decode())
    onnx.save(liar, tmp_path / "liar.onnx")
    done = modelopt("compare", CNN, "liar.onnx", "--eval", EVAL, "--no-bench", "--json", cwd=tmp_path).succeeded()
    accuracy = json.loads(done.out)["accuracy"]["tasks"][0]
    assert accuracy["reference"]["value"] == accuracy["candidate"]["value"]


def test_from_the_command_line(tmp_path: Path) -> None:
    flags = ("--no-search", "--everywhere", "--integer-io", "--no-bench", "--json", "-o", "int.onnx")
    done = modelopt("quantize", CNN, "--calib", CALIB, "--eval", EVAL, *flags, cwd=tmp_path).succeeded()
    report = json.loads(done.out)
    facts = report["passes"][-1]["facts"]
    kind = "int8" if targets.detect().kind is TargetKind.ARM64 else "uint8"
    assert facts["input image"].startswith(f"{kind}, scale ")
    assert facts["output logits"].startswith(f"{kind}, scale ")
    assert report["accuracy"]["tasks"][0]["candidate"]["value"] > 0.98
    loaded = session(tmp_path / "int.onnx")
    assert [value.type for value in (*loaded.get_inputs(), *loaded.get_outputs())] == [f"tensor({kind})"] * 2
    compared = modelopt("compare", CNN, "int.onnx", "--eval", EVAL, "--no-bench", "--json", cwd=tmp_path).succeeded()
    assert json.loads(compared.out)["accuracy"]["tasks"][0]["candidate"]["value"] > 0.98


def test_it_is_for_static_int8(tmp_path: Path) -> None:
    done = modelopt("quantize", CNN, "--mode", "dynamic", "--integer-io", cwd=tmp_path)
    assert done.code == 2
    assert "--integer-io is not for --mode dynamic" in done.err
