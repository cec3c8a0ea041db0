"""What stops quantization, as `modelopt inspect` lists it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from onnx import TensorProto

from tests.inspection.model_texts import Inspect, codes, linear, parse, weights

# Blockers


def test_nothing_in_the_way(look: Inspect) -> None:
    assert codes(look(linear())) == {}


def _call(op: str, domain: str) -> onnx.ModelProto:
    model = linear()
    model.graph.node.append(oh.make_node(op, ["y"], ["z"], domain=domain))
    model.opset_import.append(oh.make_opsetid(domain, 1))
    return model


def _overridable() -> onnx.ModelProto:
    model = linear()
    model.graph.input.append(oh.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3]))
    return model


BLOCKERS: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {
    "old-opset": ("note", lambda: linear(opset=11)),
    "not-float32": ("stops", lambda: linear(dtype="float16")),
    "already-quantized": (
        "stops",
        lambda: parse("g (float[2] x, float s) => (uint8[2] y) { y = QuantizeLinear(x, s) }"),
    ),
    "no-constant-weights": ("stops", lambda: parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")),
    "dynamic-weights": (
        "hampers",
        lambda: parse("g (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }"),
    ),
    "computed-weights": (
        "note",
        lambda: weights(parse("g (float[2,4] x) => (float[2,3] y) { t = Transpose(W) y = MatMul(x, t) }"), W=(3, 4)),
    ),
    "overridable-weights": ("hampers", _overridable),
    "shared-weights": (
        "hampers",
        lambda: weights(
            parse("g (float[1,4] x) => (float[1,4] y) { a = Gemm(x, W) y = Gemm<transB=1>(a, W) }"), W=(4, 4)
        ),
    ),
    "tied-weights": (
        "hampers",
        lambda: weights(
            parse("g (int64[1] i) => (float[1,4] y) { a = Gather(W, i) y = Gemm<transB=1>(a, W) }"), W=(4, 4)
        ),
    ),
    "conv-transpose": (
        "hampers",
        lambda: weights(parse("g (float[1,2,3] x) => (float[] y) { y = ConvTranspose(x, W) }"), W=(2, 2, 2)),
    ),
    "contrib-domain": ("hampers", lambda: _call("Gelu", "com.microsoft")),
    "custom-domain": ("stops", lambda: _call("Mystery", "my.ops")),
}


@pytest.mark.parametrize("code", BLOCKERS)
def test_blockers(code: str, look: Inspect) -> None:
    severity, make = BLOCKERS[code]
    assert codes(look(make())).get(code) == severity


def test_a_function_is_not_a_custom_operator(look: Inspect) -> None:
    model = parse(
        "g (float[1,2] x) => (float[1,2] y) { y = my.f(x, x) }",
        extra=', "my" : 1',
        functions='<opset_import: ["" : 17], domain: "my"> f (a, b) => (c) { c = MatMul(a, b) }',
    )
    found = look(model)
    assert "custom-domain" not in codes(found)
    assert found.nodes_in_functions == 1
    assert found.macs.unknown_nodes == 1
