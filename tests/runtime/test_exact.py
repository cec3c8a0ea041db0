"""The twin of a model whose products do not saturate: what onnxruntime computes of it is the integers' product."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt.io import serialize
from modelopt.runtime import exact
from modelopt.runtime.session import SessionInfo, SessionSpec
from modelopt.runtime.worker import Worker
from tests.quant_tools import model, op_types, run

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
ROWS = np.full((3, 8), 255, np.uint8)
FULL = np.full((8, 4), 127, np.int8)
"""Two products of them are 64770: more than 16 bits hold."""

ONE, ZERO, SIGNED = np.array(1, np.float32), np.array(0, np.uint8), np.array(0, np.int8)
EXPECTED = ROWS.astype(np.int32) @ FULL.astype(np.int32)


def net(text: str, inputs: str = "uint8[n,8] x", output: str = "int32[n,4] y", **stored: np.ndarray) -> ir.Model:
    return model(f"{HEADER} net ({inputs}) => ({output}) {{ {text} }}", **stored)


def unsigned(subject: ir.Model) -> int:
    """How many weights became u8; the rest of the graph stays."""
    before = op_types(subject)
    count = exact.unsigned_weights(subject)
    assert op_types(subject) == before
    return count


def test_matmul_integer() -> None:
    product = net("y = MatMulInteger (x, w)", w=FULL)
    np.testing.assert_array_equal(run(product, {"x": ROWS})[0], EXPECTED)
    assert unsigned(product) == 1
    np.testing.assert_array_equal(run(product, {"x": ROWS})[0], EXPECTED)
    assert exact.unsigned_weights(product) == 0


def test_zero_points_are_kept() -> None:
    zeros = np.array([-128, 127, 0, 5], np.int8)
    product = net("y = MatMulInteger (x, w, a, b)", w=FULL, a=np.array(255, np.uint8), b=zeros)
    rows = np.arange(24, dtype=np.uint8).reshape(3, 8)
    expected = (rows.astype(np.int32) - 255) @ (FULL.astype(np.int32) - zeros)
    assert unsigned(product) == 1
    np.testing.assert_array_equal(run(product, {"x": rows})[0], expected)


def test_conv_integer() -> None:
    kernel = np.full((4, 2, 2, 2), 127, np.int8)
    product = net("y = ConvInteger (x, w)", "uint8[n,2,2,2] x", "int32[n,4,1,1] y", w=kernel)
    image = np.full((1, 2, 2, 2), 255, np.uint8)
    assert unsigned(product) == 1
    assert set(run(product, {"x": image})[0].ravel()) == {8 * 255 * 127}


def test_operators_that_requantize() -> None:
    """Kernels may share a weight, a zero point, and a scale."""
    square, big = np.full((8, 8), 127, np.int8), np.array(1016, np.float32)
    stored: dict[str, np.ndarray] = {"w": square, "one": ONE, "big": big, "zero": ZERO, "signed": SIGNED}
    text = """
    h = QLinearMatMul (x, one, zero, w, one, signed, big, zero)
    y = QLinearMatMul (h, one, zero, w, one, signed, big, zero)
    """
    product = model(f"{HEADER} net (uint8[n,8] x) => (uint8[n,8] y) {{ {text} }}", **stored)
    assert unsigned(product) == 2
    assert sum(name.startswith("w_u8") for name in product.graph.initializers) == 2  # the weight and its zero point
    assert set(run(product, {"x": ROWS})[0].ravel()) == {255}


QDQ = """
  xf = DequantizeLinear (x, one, zero)
  wf = DequantizeLinear <axis = 1> (w, scales, signed)
  h = MatMul (xf, wf)
  hq = QuantizeLinear (h, big, zero)
  y = DequantizeLinear (hq, big, zero)
"""


@pytest.mark.parametrize("zeros", [", signed", ""])
def test_q_and_dq(zeros: str) -> None:
    text = QDQ.replace(", signed", zeros)
    scales, signed, big = np.ones(4, np.float32), np.zeros(4, np.int8), np.array(2040, np.float32)
    stored: dict[str, np.ndarray] = {
        "w": FULL,
        "one": ONE,
        "zero": ZERO,
        "scales": scales,
        "signed": signed,
        "big": big,
    }
    product = model(f"{HEADER} net (uint8[n,8] x) => (float[n,4] y) {{ {text} }}", **stored)
    assert unsigned(product) == 1
    (wanted,) = {round(8 * 255 * 127 / 2040) * 2040}
    assert set(run(product, {"x": ROWS})[0].ravel()) == {wanted}


def test_a_constant_that_no_product_takes_is_left() -> None:
    text = "f = DequantizeLinear (w, one, signed)  xf = Cast <to = 1> (x)  s = MatMul (xf, v)  y = Add (s, f)"
    floats = np.ones((8, 4), np.float32)
    subject = net(text, "uint8[8,8] x", "float[8,4] y", w=FULL, v=floats, one=ONE, signed=SIGNED)
    assert unsigned(subject) == 0


def test_signed_activations_are_left() -> None:
    """onnxruntime multiplies s8 by s8 only."""
    subject = net("y = MatMulInteger (x, w, z)", "int8[n,8] x", w=FULL, z=SIGNED)
    assert unsigned(subject) == 0


def test_a_computed_weight_or_zero_point_is_left() -> None:
    assert unsigned(net("w = Cast <to = 3> (x)  y = MatMulInteger (x, w)", "uint8[8,8] x", "int32[8,8] y")) == 0
    text = "z = ReduceMax <keepdims = 0> (s)  y = MatMulInteger (x, w, , z)"
    assert unsigned(net(text, "uint8[n,8] x, int8[2] s", w=FULL)) == 0


def test_weights_in_constant_nodes_and_in_bodies() -> None:
    text = """
    held = Constant <value_ints = [1]> ()
    y = If (c) <
      then_branch = yes () => (int32[n,4] a) { a = MatMulInteger (x, w) },
      else_branch = no () => (int32[n,4] b) { k = Identity (x)  b = MatMulInteger (k, w) }
    >
    """
    product = net(text, "bool c, uint8[n,8] x", w=FULL)
    holder = ir.node("Constant", [], {"value": ir.tensor(FULL, name="w")})
    holder.outputs[0].name = "v"
    branch = next(node for node in product.graph if node.op_type == "If").attributes["else_branch"].as_graph()
    branch.insert_before(branch[0], holder)
    branch[-1].replace_input_with(1, holder.outputs[0])
    assert exact.unsigned_weights(product) == 2
    for taken in (True, False):
        np.testing.assert_array_equal(run(product, {"c": np.array(taken), "x": ROWS})[0], EXPECTED)


def test_external_weights_stay_beside_the_file(tmp_path: Path) -> None:
    text = "i = MatMulInteger (x, w)  f = Cast <to = 1> (i)  y = MatMul (f, v)"
    floats = np.ones((4, 2), np.float32)
    proto = onnx.load_model_from_string(serialize.to_bytes(net(text, output="float[n,2] y", w=FULL, v=floats)))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    with Worker(exact=True) as worker:
        outputs = worker.open(path, SessionSpec(spin=False)).run({"x": ROWS})
    np.testing.assert_array_equal(outputs[0], EXPECTED.astype(np.float32) @ floats)


@pytest.mark.parametrize("of_worker", [True, False])
@pytest.mark.parametrize("asked", [None, True, False])
def test_a_session_that_leaves_it_open_is_as_its_worker_says(
    of_worker: bool, asked: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def request(body: dict[str, object], *_: object, **__: object) -> tuple[dict[str, object], dict[str, object]]:
        seen.append(msgspec.convert(body["spec"], SessionSpec).exact)
        return {"info": msgspec.to_builtins(SessionInfo((), (), (), 0))}, {}

    with Worker(exact=of_worker) as worker:
        monkeypatch.setattr(worker._connection, "request", request)
        worker.open(Path("m.onnx"), SessionSpec(exact=asked))
    assert seen == [of_worker if asked is None else asked]
