"""fuse-hardswish, fuse-gelu, fuse-bias-gelu, fuse-silu and fuse-mish on each form that exporters write."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from tests.fusion_tools import PLACES, TRUE, assert_fuses, float_model
from tests.transformer_tools import (
    CONTRIB,
    ERF,
    FLOAT,
    HALF,
    NUMBERS,
    NUMPY,
    TANH,
    assert_becomes,
    assert_left_alone,
    gelu,
    inferred_model,
    node,
)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("form", ["swish", "swish-times-sixth", "gate", "gate-then-product", "relu-min"])
@pytest.mark.parametrize("opset", [10, 11, 17])
def test_hardswish(form: str, opset: int, place: dict[str, bool]) -> None:
    weights = {"three": np.array([3], np.float32), "six": np.array(6, np.float32)}
    clip = [helper.make_node("Clip", ["a", "zero", "six"], ["c"])]
    if form == "relu-min":
        clip = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Min", ["six", "r"], ["c"])]
    elif opset < 11:
        clip = [helper.make_node("Clip", ["a"], ["c"], min=0.0, max=6.0)]
    else:
        weights["zero"] = np.array(0, np.float32)
    weights["sixth"] = np.array(1 / 6, np.float32)
    ends = {
        "swish": [helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("Div", ["m", "six"], ["y"])],
        "swish-times-sixth": [
            helper.make_node("Mul", ["c", "x"], ["m"]),
            helper.make_node("Mul", ["m", "sixth"], ["y"]),
        ],
        "gate": [helper.make_node("Div", ["c", "six"], ["y"])],
        "gate-then-product": [
            helper.make_node("Mul", ["sixth", "c"], ["d"]),
            helper.make_node("Mul", ["x", "d"], ["y"]),
        ],
        "relu-min": [helper.make_node("Div", ["c", "six"], ["y"])],
    }
    nodes = [helper.make_node("Add", ["x", "three"], ["a"]), *clip, *ends[form]]
    feeds: dict[str, np.ndarray] = {"x": np.linspace(-5, 5, 200, dtype=np.float32).reshape(2, 100)}
    if place.get("in_branch"):
        feeds["p"] = TRUE
    fused = assert_fuses(float_model(nodes, weights, 2, opset=opset, **place), feeds, "fuse-hardswish", 1)
    operators = [node.op_type for node in ir.traversal.RecursiveGraphIterator(fused.graph)]
    operators += [node.op_type for function in fused.functions.values() for node in function]
    assert "HardSigmoid" in operators
    assert not {"Clip", "Min", "Div"} & set(operators)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("form", [*ERF, *TANH])
@pytest.mark.parametrize("biased", [False, True])
def test_gelu(form: str, dtype: int, biased: bool) -> None:
    nodes, weights = gelu({**ERF, **TANH}[form], dtype)
    if biased:
        weights["b"] = np.linspace(-1, 1, 8).astype(NUMPY[dtype])
        nodes.insert(0, node("Add", "x0 b", "x"))
    name = "x0" if biased else "x"
    feeds = {name: np.linspace(-4, 4, 48).reshape(2, 3, 8).astype(NUMPY[dtype])}
    model = inferred_model(nodes, weights, {name: ["N", "S", 8]}, opset=20, dtype=dtype)
    fused = assert_becomes(model, "fuse-gelu", feeds, ["Add", "Gelu"] if biased else ["Gelu"])
    assert fused.graph[-1].attributes.get_string("approximate", "none") == ("none" if form in ERF else "tanh")
    if dtype == HALF:  # onnxruntime's CPU provider has none of its own operators in float16
        return
    model = inferred_model(nodes, weights, {name: ["N", "S", 8]}, opset=13, dtype=dtype)
    expected = "FastGelu" if form in TANH else "BiasGelu" if biased else "Gelu"
    fused = assert_becomes(model, "fuse-bias-gelu", feeds, [expected])
    assert fused.graph[-1].domain == CONTRIB
    assert fused.opset_imports[CONTRIB] == 1


@pytest.mark.parametrize(("form", "number"), [("torch", "root"), ("half first", "half"), ("pow", "c"), ("pow", "k")])
def test_gelu_with_another_number(form: str, number: str) -> None:
    nodes, weights = gelu({**ERF, **TANH}[form], FLOAT, **{number: NUMBERS[number] * 1.01})
    assert_left_alone(inferred_model(nodes, weights, {"x": ["N", 8]}, opset=20), "fuse-gelu")


def test_silu_and_mish() -> None:
    feeds = {"x": np.linspace(-5, 5, 48).reshape(2, 24).astype(np.float32)}
    silu = inferred_model([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")], {}, {"x": ["N", 24]}, opset=13)
    assert_becomes(silu, "fuse-silu", feeds, ["QuickGelu"])
    nodes = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")]
    assert_becomes(inferred_model(nodes, {}, {"x": ["N", 24]}, opset=18), "fuse-mish", feeds, ["Mish"])
