"""The helpers that passes lean on: what is constant, who uses a value, what may be replaced, what is dead."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from modelopt import graph
from modelopt.graph import invariants
from tests.helpers import big_model, body, info, model_of, weight

CAPTURING = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[4] x, bool c) => (float[4] y) <float[4] w = {1, 2, 3, 4}, float[4] unused = {1, 2, 3, 4}> {
  a = Relu (x)
  dead = Abs (a)
  y = If (c) <then_branch = t () => (float[4] p) { p = Add (a, w) },
              else_branch = e () => (float[4] q) { q = Neg (x) }>
}
"""

PASSING_ON = """
g (float[4] x, bool c) => (float[4] y) {
  a = Relu (x)
  y = If (c) <then_branch = t () => (float[4] p) { p = Identity (a) },
              else_branch = e () => (float[4] q) { q = Neg (x) }>
}
"""


def _model(text: str) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 18]>\n{text}')


def _value(model: ir.Model, name: str) -> ir.Value:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in graph.all_nodes(model) for output in node.outputs]
    return next(value for value in values if value.name == name)


# Walking


def test_every_scope_is_visited() -> None:
    model = ir.from_proto(big_model())
    assert [scope.name for scope in graph.all_graphs(model)] == ["g", "body", "body", "F"]
    assert sum(1 for _ in graph.all_nodes(model)) == 5 + 2 + 2 + 2
    assert {version for _, version in graph.nodes_with_opset(model)} == {18}


def test_nodes_may_be_removed_on_the_way() -> None:
    model = _model("g (float[4] x) => (float[4] y) { y = Relu (x) a = Abs (x) b = Abs (x) }")
    for node in graph.all_nodes(model):
        if node.op_type == "Abs":
            graph.remove_if_dead(node)
    assert [node.op_type for node in model.graph] == ["Relu"]


# Constants


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [1, 2, 3]}, np.array([1, 2, 3])),
        ({"value": helper.make_tensor("t", TensorProto.INT8, [], [3])}, np.int8(3)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_constant_nodes_are_constants(attributes: dict[str, Any], expected: np.ndarray) -> None:
    model = ir.from_proto(model_of([helper.make_node("Constant", [], ["y"], **attributes)]))
    found = graph.constant(_value(model, "y"))
    assert found is not None
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


def test_what_may_change_is_no_constant() -> None:
    model = ir.from_proto(
        model_of(
            [
                helper.make_node("Constant", [], ["s"], value_string="text"),
                helper.make_node("Constant", [], ["mine"], domain="other", value_float=1.0),
                helper.make_node("Add", ["x", "w"], ["y"]),
            ],
            inputs=["x", "w"],
            initializers=[weight("w", 4), weight("k", 4)],
            domains=["other"],
        )
    )
    assert [graph.constant(_value(model, name)) is None for name in ("s", "mine", "y", "x", "w", "k")] == [True] * 5 + [
        False
    ]
    assert graph.constant(None) is None
    assert graph.constant(_value(model, "k"), max_bytes=15) is None
    assert graph.constant(_value(model, "k"), max_bytes=16) is not None


@pytest.mark.parametrize(("array", "number"), [(np.float32(2), 2.0), (np.array([[3]]), 3), (np.ones((), bool), True)])
def test_a_scalar_has_one_element_of_any_rank(array: np.ndarray, number: float) -> None:
    model = ir.from_proto(model_of([], outputs=["x"]))
    value = graph.add_initializer(model.graph, "k", array)
    assert graph.scalar(value) == number
    assert value.shape == ir.Shape(array.shape)


def test_two_numbers_are_no_scalar() -> None:
    model = ir.from_proto(model_of([], outputs=["x"], initializers=[weight("k", 2)]))
    assert graph.scalar(model.graph.initializers["k"]) is None


# Users


def test_captures_are_uses() -> None:
    model = ir.from_onnx_text(CAPTURING)
    a = _value(model, "a")
    assert len(a.uses()) == 2
    assert graph.sole_consumer(a) is None
    assert graph.why_not_sole(a) == "its output has 2 consumers"
    graph.remove_if_dead(model.graph[1])
    consumer = graph.sole_consumer(a)
    assert consumer is not None
    assert consumer.op_type == "Add"  # in the body


def test_an_output_of_the_graph_has_no_sole_consumer() -> None:
    model = _model("g (float[4] x) => (float[4] a, float[4] y) { a = Relu (x) y = Abs (a) }")
    assert graph.sole_consumer(_value(model, "a")) is None
    assert graph.why_not_sole(_value(model, "a")) == "its output is also a graph output"


def test_a_node_that_uses_a_value_twice_is_not_its_sole_consumer() -> None:
    model = _model("g (float[4] x) => (float[4] y) { a = Relu (x) y = Add (a, a) }")
    assert graph.sole_consumer(_value(model, "a")) is None


# Edits


def test_a_graph_output_keeps_its_name_and_type() -> None:
    model = _model("g (float[N] x) => (float[N] y) { a = Relu (x) y = Identity (a) z = Abs (y) }")
    before = graph.signature(model)
    old, new = _value(model, "y"), _value(model, "a")
    assert graph.can_replace(old, new) is None

    graph.replace_value(old, new)
    graph.sweep(model)

    assert graph.signature(model) == before
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert invariants.check(model) == []


@pytest.mark.parametrize(
    ("text", "old", "new", "reason"),
    [
        ("g (float[4] x) => (float[4] y) { y = Identity (x) }", "y", "x", "a graph input or an initializer"),
        (
            "g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Identity (w) }",
            "y",
            "w",
            "a graph input or an initializer",
        ),
        (
            "g (float[4] x) => (float[4] a, float[4] y) { a = Relu (x) y = Identity (a) }",
            "y",
            "a",
            "two graph outputs would become one value",
        ),
        (
            PASSING_ON,
            "p",
            "a",
            "a graph output would leave its scope",
        ),
    ],
)
def test_what_would_change_the_signature_is_refused(text: str, old: str, new: str, reason: str) -> None:
    model = _model(text)
    assert reason in (graph.can_replace(_value(model, old), _value(model, new)) or "")


def test_an_inner_value_may_become_an_input() -> None:
    model = _model("g (float[4] x) => (float[4] y) { a = Identity (x) y = Relu (a) }")
    assert graph.can_replace(_value(model, "a"), _value(model, "x")) is None
    graph.replace_value(_value(model, "a"), _value(model, "x"))
    assert [value.name for value in model.graph[1].inputs if value] == ["x"]


def test_sweeping_keeps_what_bodies_capture() -> None:
    model = ir.from_onnx_text(CAPTURING)

    assert graph.sweep(model) == 2

    assert list(model.graph.initializers) == ["w"]
    assert [node.op_type for node in model.graph] == ["Relu", "If"]
    assert graph.sweep(model) == 0


def test_sweeping_a_node_with_bodies_frees_what_they_captured() -> None:
    model = ir.from_onnx_text(CAPTURING.replace("y = If", "i = If").replace("dead =", "y ="))

    assert graph.sweep(model) == 3  # the If, w and unused

    assert [node.op_type for node in model.graph] == ["Relu", "Abs"]
    assert list(model.graph.initializers) == []


def test_sweeping_keeps_inputs() -> None:
    model = ir.from_proto(
        model_of(
            [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Print", ["x"], ["p"])],
            inputs=["x", "w"],
            initializers=[weight("w", 4)],
        )
    )
    assert graph.sweep(model) == 1
    assert list(model.graph.initializers) == ["w"]


# Names


def test_names_are_new_in_every_scope() -> None:
    names = graph.NameSource(ir.from_proto(big_model()))
    assert [names(stem) for stem in ("then_s", "fk", "w", "x", "fresh", "fresh", "fresh_1")] == [
        "then_s_1",
        "fk_1",
        "w_1",
        "x_1",
        "fresh",
        "fresh_1",
        "fresh_1_1",
    ]
    assert graph.NameSource(ir.from_proto(big_model()))("a") == "a_1"  # the function's input


def test_a_node_is_called_by_its_name_or_output() -> None:
    model = ir.from_proto(
        model_of(
            [
                helper.make_node("Relu", ["x"], ["y"], name="[red]n"),
                helper.make_node("Dropout", ["x"], ["", "mask"]),
                helper.make_node("Print", ["x"], []),
            ]
        )
    )
    assert [graph.label(node) for node in model.graph] == ["[red]n (Relu)", "mask (Dropout)", "unnamed (Print)"]


# Statistics


def test_an_initializer_that_is_an_input_is_not_part_of_the_signature() -> None:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], inputs=["x", "w"], initializers=[weight("w", 4)])
    model.graph.input.append(info("s", ("batch", "n"), TensorProto.STRING))
    model.graph.input.append(info("b", None, TensorProto.BFLOAT16))
    signature = graph.signature(ir.from_proto(model))
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.inputs] == [
        ("x", "float32", (4,)),
        ("s", "string", ("batch", "n")),
        ("b", "bfloat16", None),
    ]
    assert [spec.name for spec in signature.outputs] == ["y"]


def test_weights_are_counted_wherever_they_are() -> None:
    floats = 400 + 500 + 600 + 500 + 600 + 600 + 300
    assert graph.weight_bytes(ir.from_proto(big_model())) == floats * 4 + 1 + 4


def test_a_shared_tensor_counts_once() -> None:
    model = ir.from_proto(model_of([], outputs=["x"], initializers=[weight("a", 4), weight("b", 4)]))
    model.graph.initializers["b"].const_value = model.graph.initializers["a"].const_value
    assert graph.weight_bytes(model) == 16


def test_a_body_that_is_shared_by_name_only_is_visited_twice() -> None:
    same = body([helper.make_node("Relu", ["x"], ["t"])], ["t"])
    node = helper.make_node("If", ["c"], ["y"], then_branch=same, else_branch=same)
    model = ir.from_proto(model_of([node], inputs=["x", "c"]))
    assert len(list(graph.bodies(model.graph[0]))) == 2
