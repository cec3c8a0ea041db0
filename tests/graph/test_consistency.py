"""Lists of operators and their bodies that do not fit, and near misses that do."""

from __future__ import annotations

import math
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from modelopt.graph import invariants
from tests.helpers import body, info, model_of

make = helper.make_node


def _rules(model: onnx.ModelProto) -> list[str]:
    return [str(violation) for violation in invariants.check(ir.from_proto(model))]


def _conv(kind: str = "Conv", **attributes: Any) -> onnx.NodeProto:
    return make(kind, ["x", "w"][: 1 if "Pool" in kind else 2], ["y"], **attributes)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (_conv(pads=[1, 1]), "the attribute 'pads' of Conv has 2 numbers, two for each axis are needed"),
        (_conv(strides=[1]), "the attributes of Conv are for 1 and for 2 axes"),
        (_conv("ConvTranspose", dilations=[1, 1, 1]), "the attributes of ConvTranspose are for 2 and for 3 axes"),
        (_conv(strides=[1, 0]), "the attribute 'strides' of Conv holds 0"),
        (_conv(dilations=[-1, 1]), "the attribute 'dilations' of Conv holds -1"),
        (
            _conv("MaxPool", kernel_shape=[2, 2], strides=[2]),
            "the attributes of MaxPool are for 1 and for 2 axes",
        ),
        (
            _conv("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 0]),
            "the attribute 'pads' of AveragePool has 3 numbers, two for each axis are needed",
        ),
        (make("Transpose", ["x"], ["y"], perm=[0, 2]), "the attribute 'perm' of Transpose is no permutation"),
        (make("Transpose", ["x"], ["y"], perm=[1, 1]), "the attribute 'perm' of Transpose is no permutation"),
    ],
)
def test_lists_of_an_operator_fit_each_other(node: onnx.NodeProto, problem: str) -> None:
    filters = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 2, 2], [0.0] * 4)
    assert _rules(model_of([node], initializers=[filters])) == [f"y ({node.op_type}): {problem}"]


@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 1], "pads": [0, 1, 2, 0]}])
def test_lists_that_are_left_out_have_defaults(attributes: dict[str, Any]) -> None:
    filters = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 2, 2], [0.0] * 4)
    assert _rules(model_of([_conv(**attributes)], initializers=[filters])) == []


def test_filters_have_axes_to_move_along() -> None:
    filters = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], [0.0] * 4)
    problem = "y (Conv): Conv has filters of 2 dimensions, and needs 3 or more"
    assert _rules(model_of([_conv()], initializers=[filters])) == [problem]


@pytest.mark.parametrize(
    ("kind", "dims", "problem"),
    [
        ("MatMul", [], "MatMul has a factor of 0 dimensions"),
        ("MatMul", [4], None),
        ("MatMul", [2, 4, 4], None),
        ("Gemm", [4], "Gemm has a factor of 1 dimensions"),
        ("Gemm", [4, 4], None),
        ("Gemm", [1, 4, 4], "Gemm has a factor of 3 dimensions"),
    ],
)
def test_the_factors_of_a_product_are_matrices(kind: str, dims: list[int], problem: str | None) -> None:
    factor = helper.make_tensor("w", onnx.TensorProto.FLOAT, dims, [0.0] * math.prod(dims))
    found = _rules(model_of([make(kind, ["x", "w"], ["y"])], initializers=[factor]))
    assert found == ([] if problem is None else [f"y ({kind}): {problem}"])


def test_a_body_of_an_if_makes_what_the_node_makes() -> None:
    two = body([make("Abs", ["x"], ["t"]), make("Relu", ["x"], ["u"])], ["t", "u"])
    one = body([make("Abs", ["x"], ["v"])], ["v"])
    found = _rules(model_of([make("If", ["c"], ["y"], name="if", then_branch=two, else_branch=one)], inputs=["x", "c"]))
    assert found == ["if (If): a body of If makes 2 values, and 1 are needed"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        (["i", "c"], ["c", "t"], "a body of Loop takes 2 values, and is given 3"),
        (["i", "c", "s"], ["c"], "a body of Loop makes 1 values, and 2 are needed"),
        (["i", "c", "s"], ["c", "t", "t2"], "a body of Loop makes 3 values, and 2 are needed"),
        (["i", "c", "s"], ["c", "t"], None),
    ],
)
def test_a_body_of_a_loop_takes_and_makes_what_the_node_does(
    inputs: list[str], outputs: list[str], problem: str | None
) -> None:
    nodes = [make("Abs", ["x"], ["t"]), make("Relu", ["x"], ["t2"])]
    inner = body(nodes, outputs, inputs=[info(name) for name in inputs])
    model = model_of([make("Loop", ["n", "", "x"], ["y"], name="loop", body=inner)], inputs=["x", "n"])
    assert _rules(model) == ([] if problem is None else [f"loop (Loop): {problem}"])


def test_a_scan_of_opset_8_has_lengths_before_its_states() -> None:
    inner = body([make("Add", ["s", "r"], ["t"])], ["t"], inputs=[info("s"), info("r")])
    model = model_of([make("Scan", ["", "x", "x"], ["y"], body=inner, num_scan_inputs=1)])
    model.opset_import[0].version = 8
    assert _rules(model) == []


def test_a_list_that_is_empty_stands_for_its_defaults() -> None:
    node = _conv()
    node.attribute.append(helper.make_attribute("strides", [], attr_type=onnx.AttributeProto.INTS))
    filters = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 2, 2], [0.0] * 4)
    assert _rules(model_of([node], initializers=[filters])) == []
