"""Multiply-accumulates against hand-made arithmetic, and the shapes that they need."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest

from modelopt import io
from modelopt.core.errors import InputError, Refused
from modelopt.inspection import inspect
from modelopt.inspection.listing import render_inspection
from modelopt.runtime.worker_runner import WorkerRunner
from tests.inspection.model_texts import Inspect, linear, parse, weights

MACS: dict[str, tuple[str, dict[str, tuple[int, ...]], int]] = {
    "conv": ("(float[1,3,8,8] x) => (y) { y = Conv<pads=[1,1,1,1]>(x, W) }", {"W": (5, 3, 3, 3)}, 5 * 64 * 27),
    "grouped conv": (
        "(float[2,4,8,8] x) => (y) { y = Conv<group=2, strides=[2,2]>(x, W) }",
        {"W": (6, 2, 2, 2)},
        2 * 6 * 16 * (2 * 4),
    ),
    "depthwise conv": ("(float[1,4,5] x) => (y) { y = Conv<group=4>(x, W) }", {"W": (4, 1, 3)}, 4 * 3 * 3),
    "transposed conv": (
        "(float[1,4,5,5] x) => (y) { y = ConvTranspose<group=2, strides=[2,2]>(x, W) }",
        {"W": (4, 3, 2, 2)},
        4 * 25 * 3 * 4,
    ),
    "gemm": ("(float[2,4] x) => (y) { y = Gemm<transB=1>(x, W) }", {"W": (3, 4)}, 2 * 4 * 3),
    "gemm, both transposed": ("(float[4,2] x) => (y) { y = Gemm<transA=1, transB=1>(x, W) }", {"W": (3, 4)}, 24),
    "batched matmul": ("(float[5,1,2,4] x, float[6,4,3] z) => (y) { y = MatMul(x, z) }", {}, 5 * 6 * 2 * 3 * 4),
    "vector matmul": ("(float[4] x) => (y) { y = MatMul(x, W) }", {"W": (4,)}, 4),
    "bidirectional lstm": (
        '(float[7,2,3] x) => (y) { y = LSTM<hidden_size=5, direction="bidirectional">(x, W, R) }',
        {"W": (2, 20, 3), "R": (2, 20, 5)},
        7 * 2 * 2 * 4 * 5 * (3 + 5),
    ),
    "gru": ("(float[7,2,3] x) => (y) { y = GRU<hidden_size=5>(x, W, R) }", {"W": (1, 15, 3), "R": (1, 15, 5)}, 1680),
    "rnn": ("(float[7,2,3] x) => (y) { y = RNN<hidden_size=5>(x, W, R) }", {"W": (1, 5, 3), "R": (1, 5, 5)}, 560),
    "einsum": (
        '(float[2,3,4] x, float[2,5,4] z) => (y) { y = Einsum<equation="bik, bjk -> bij">(x, z) }',
        {},
        2 * 3 * 5 * 4,
    ),
    "no macs": ("(float[2,3] x) => (y) { y = Relu(x) }", {}, 0),
}


@pytest.mark.parametrize("case", MACS)
def test_macs_by_hand(case: str, look: Inspect) -> None:
    body, shapes, expected = MACS[case]
    text = body.replace("=> (y)", "=> (float[] y)", 1)
    assert look(weights(parse(f"g {text}"), dtype="float32", **shapes)).macs.total == expected


def test_attention_macs(look: Inspect) -> None:
    text = "g (float[2,4,5,8] q, float[2,2,7,8] k, float[2,2,7,6] v) => (float[] y) { y = Attention(q, k, v) }"
    assert look(parse(text, opset=23)).macs.total == 2 * 4 * 5 * 7 * (8 + 6)


def test_batch_is_assumed_and_other_dims_stay_open(look: Inspect) -> None:
    model = weights(parse("g (float[N,T,4] x) => (float[N,T,3] y) { y = MatMul(x, W) }"), W=(4, 3))
    found = look(model)
    assert [(dim.name, dim.size, dim.source) for dim in found.dims] == [("N", 1, "assumed"), ("T", None, "free")]
    assert (found.macs.total, found.macs.unknown_nodes) == (None, 1)
    given = look(model, sizes={"N": 2, "T": 10})
    assert given.macs.total == 2 * 10 * 4 * 3
    assert given.layers[0].output_shape == (2, 10, 3)
    assert given.inputs[0].shape == ("N", "T", 4)


def test_nameless_dims_are_called_by_place(look: Inspect) -> None:
    model = weights(parse("g (float[N,T,4] x) => (float[] y) { y = MatMul(x, W) }"), W=(4, 3))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "?"
    assert [dim.name for dim in look(model).dims] == ["x:0", "x:1"]
    assert look(model, sizes={"x:1": 10}).macs.total == 120


def test_unknown_dim_is_refused_with_a_suggestion(look: Inspect) -> None:
    with pytest.raises(InputError) as caught:
        look(linear(), sizes={"n": 2})
    assert "N" in (caught.value.note or "")


def test_shapes_behind_computed_shapes(look: Inspect) -> None:
    text = """g (float[N,2,6] x) => (float[] y) {
        s = Shape(x)
        zero = Constant<value_ints=[0]>()
        n = Gather(s, zero)
        rest = Constant<value_ints=[3,4]>()
        wanted = Concat<axis=0>(n, rest)
        r = Reshape(x, wanted)
        y = MatMul(r, W)
    }"""
    assert look(weights(parse(text), W=(4, 5))).macs.total == 3 * 4 * 5


def test_failed_inference_is_said_and_the_file_is_used(tmp_path: Path) -> None:
    class Fails:
        def infer_shapes(self, model: ir.Model) -> None:
            raise Refused("no\x1b[31m", note="because")

    onnx.save(linear(), tmp_path / "m.onnx")
    found = inspect(io.load(tmp_path / "m.onnx", scratch=tmp_path), Fails())
    assert found.shape_failure == "no\x1b[31m (because)"
    assert found.macs.total == 12
    notes = [note for section in render_inspection(found) for note in section.notes]
    assert any("inference failed" in note for note in notes)


def test_the_model_is_the_same_afterwards(tmp_path: Path, runner: WorkerRunner) -> None:
    from modelopt.io import serialize

    onnx.save(linear(), tmp_path / "m.onnx")
    loaded = io.load(tmp_path / "m.onnx", scratch=tmp_path)
    before = serialize.to_bytes(loaded.model)
    inspect(loaded, runner, sizes={"N": 7})
    assert serialize.to_bytes(loaded.model) == before
