"""Each rule of a valid model has a model that breaks it, and a near miss that does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from modelopt.core.errors import ModeloptError
from modelopt.graph import invariants
from modelopt.io import serialize
from tests.graph.broken_rules import branches, rules_broken_by
from tests.helpers import big_model, body, info, model_of, weight

make = helper.make_node


def test_a_rich_model_is_valid() -> None:
    assert rules_broken_by(big_model()) == []


# Values


def test_a_value_exists_before_it_is_used() -> None:
    assert rules_broken_by(model_of([make("Relu", ["a"], ["y"]), make("Relu", ["x"], ["a"])])) == [
        "y (Relu): uses 'a' before it exists"
    ]


def test_a_value_exists_at_all() -> None:
    assert rules_broken_by(model_of([make("Add", ["x", "nowhere"], ["y"], name="add")])) == [
        "add (Add): uses 'nowhere' before it exists"
    ]


@pytest.mark.parametrize("outputs", [("a", "b"), ("b", "a")])
def test_a_name_is_given_once(outputs: tuple[str, str]) -> None:
    first, second = outputs
    model = ir.from_proto(model_of([make("Relu", ["x"], [first]), make("Split", ["x"], [second, "y"])]))
    model.graph[1].outputs[0].name = first
    assert [str(v) for v in invariants.check(model)] == [f"{first} (Split): the name '{first}' is given twice"]


def test_an_output_is_made_by_something() -> None:
    assert rules_broken_by(model_of([make("Relu", ["x"], ["z"])])) == ["graph 'g': the output 'y' is made by no node"]


def test_a_model_has_outputs() -> None:
    assert rules_broken_by(model_of([make("Relu", ["x"], ["z"])], outputs=[])) == ["graph 'g': has no outputs"]


def test_an_output_may_pass_an_input_through() -> None:
    assert rules_broken_by(model_of([], outputs=["x"])) == []


def test_an_initializer_may_be_an_input_too() -> None:
    model = model_of([make("Add", ["x", "w"], ["y"])], inputs=["x", "w"], initializers=[weight("w", 4)])
    assert rules_broken_by(model) == []


def test_an_initializer_has_data() -> None:
    model = ir.from_proto(model_of([make("Add", ["x", "w"], ["y"])], initializers=[weight("w", 4)]))
    model.graph.initializers["w"].const_value = None
    assert [str(v) for v in invariants.check(model)] == ["graph 'g': the initializer 'w' has no data"]


def test_optional_inputs_and_outputs_may_be_left_out() -> None:
    model = model_of(
        [
            make("Clip", ["x", "", "high"], ["a"]),
            make("LSTM", ["a", "w", "r"], ["", "", "y"], hidden_size=1),
            make("Dropout", ["x"], ["d", ""]),
            make("Dropout", ["x"], ["e", ""]),
        ],
        initializers=[weight("high", 1), weight("w", 4), weight("r", 4)],
    )
    assert rules_broken_by(model) == []


# Bodies


def test_a_body_sees_outer_values() -> None:
    model = model_of(
        [branches(body([make("Add", ["x", "w"], ["t"])], ["t"]))], inputs=["x", "c"], initializers=[weight("w", 4)]
    )
    assert rules_broken_by(model) == []


def test_a_body_does_not_see_what_comes_later() -> None:
    model = model_of(
        [branches(body([make("Relu", ["late"], ["t"])], ["t"])), make("Relu", ["x"], ["late"])], inputs=["x", "c"]
    )
    assert rules_broken_by(model) == ["t (Relu): uses 'late' before it exists"]


def test_nothing_outside_sees_into_a_body() -> None:
    model = model_of(
        [branches(body([make("Relu", ["x"], ["t"])], ["t"]), output="i"), make("Relu", ["t"], ["y"])], inputs=["x", "c"]
    )
    assert rules_broken_by(model) == ["y (Relu): uses 't' before it exists"]


def test_sibling_bodies_may_use_the_same_names() -> None:
    same = body([make("Relu", ["x"], ["t"])], ["t"])
    model = model_of([make("If", ["c"], ["y"], then_branch=same, else_branch=same)], inputs=["x", "c"])
    assert rules_broken_by(model) == []


def test_a_body_may_not_make_what_an_outer_graph_has_made() -> None:  # onnx's checker and onnxruntime refuse it
    model = model_of(
        [make("Abs", ["x"], ["t"]), branches(body([make("Relu", ["x"], ["t"])], ["t"]))], inputs=["x", "c"]
    )
    assert rules_broken_by(model) == ["t (Relu): makes 't', which an outer graph has made already"]


def test_a_body_may_store_what_has_the_name_of_an_outer_value() -> None:  # and these they accept
    inner = body([make("Add", ["x", "t"], ["u"])], ["u"], initializers=[weight("t", 4)])
    assert rules_broken_by(model_of([make("Abs", ["x"], ["t"]), branches(inner)], inputs=["x", "c"])) == []


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (make("Add", ["x"], ["y"]), "Add takes 2 inputs and has 1"),
        (make("Abs", ["x"], ["y", "z"]), "Abs makes 1 outputs and has 2"),
        (make("Conv", ["x", ""], ["y"]), "Conv has no input 'W'"),
        (make("Concat", [], ["y"], axis=0), "Concat takes 1 or more inputs and has 0"),
        (make("Cast", ["x"], ["y"]), "Cast has no attribute 'to'"),
        (make("Concat", ["x"], ["y"], axis=0.0), "Concat takes INT as attribute 'axis' and has FLOAT"),
        (make("Concat", ["x"], ["y"], axis=[0]), "Concat takes INT as attribute 'axis' and has INTS"),
    ],
)
def test_an_operator_lacks_nothing_that_passes_read(node: onnx.NodeProto, problem: str) -> None:
    assert rules_broken_by(model_of([node])) == [f"y ({node.op_type}): {problem}"]


def test_an_operator_of_an_unknown_opset_is_left_alone() -> None:
    model = model_of([make("Add", ["x"], ["y"])])
    model.opset_import[0].version = 999
    assert rules_broken_by(model) == []


@pytest.mark.parametrize("version", [0, -1])
def test_an_opset_has_a_number(version: int) -> None:
    model = model_of([make("Abs", ["x"], ["y"])])
    model.opset_import[0].version = version
    assert rules_broken_by(model) == [f"graph 'g': imports opset {version}"]


def test_a_body_may_not_use_an_outer_value_that_its_own_hides() -> None:
    model = ir.from_proto(
        model_of([make("Abs", ["x"], ["t"]), branches(body([make("Relu", ["t"], ["u"])], ["u"]))], inputs=["x", "c"])
    )
    assert invariants.check(model) == []
    inner = model.graph[1].attributes["then_branch"].as_graph()
    inner.outputs[0].name = "t"  # in a file, the Relu would now read its own output

    assert [str(v) for v in invariants.check(model)] == [
        "t (Relu): uses an outer 't' where an inner value has the same name",
        "t (Relu): makes 't', which an outer graph has made already",
    ]


def test_a_body_does_not_return_an_outer_value() -> None:
    model = model_of([branches(body([make("Relu", ["x"], ["t"])], ["x"]))], inputs=["x", "c"])
    assert rules_broken_by(model) == [
        "graph 'body': the output 'x' is a value of an outer graph, which needs an Identity"
    ]


def test_many_bodies_are_checked_in_linear_time() -> None:
    small = body([make("Relu", ["x"], ["t"])], ["t"])
    ifs = [make("If", ["c"], [f"i{n}"], then_branch=small, else_branch=small) for n in range(2000)]
    weights = [weight(f"w{n}", 1) for n in range(2000)]
    model = ir.from_proto(model_of(ifs, inputs=["x", "c"], outputs=["i0"], initializers=weights))
    known = 0
    original = invariants._Known.__init__

    def counting(self: invariants._Known, scope: ir.Graph | ir.Function) -> None:
        nonlocal known
        original(self, scope)
        known += len(self.names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invariants._Known, "__init__", counting)
        assert invariants.check(model) == []
    assert known == 2 + 2000 + 2000 + 4000  # each name is looked at once, not once for each body


# Domains


def test_a_domain_is_imported() -> None:
    assert rules_broken_by(model_of([make("Foo", ["x"], ["y"], domain="com.example")])) == [
        "y (Foo): its domain 'com.example' is not imported"
    ]


def test_a_domain_used_in_a_body_is_imported() -> None:
    model = model_of([branches(body([make("Foo", ["x"], ["t"], domain="com.example")], ["t"]))], inputs=["x", "c"])
    assert rules_broken_by(model) == ["t (Foo): its domain 'com.example' is not imported"]


def test_the_two_names_of_the_standard_domain_are_one() -> None:
    model = model_of([make("Relu", ["x"], ["y"], domain="ai.onnx")])
    assert rules_broken_by(model) == []


# Whatever comes


def test_no_model_that_can_be_read_makes_it_fail() -> None:
    rng = np.random.default_rng(3)
    original = big_model().SerializeToString()
    checked = 0
    for _ in range(500):
        data = bytearray(original)
        for position in rng.integers(0, len(data), size=3):
            data[position] = rng.integers(0, 256)
        try:
            model = serialize.from_bytes(bytes(data))
        except ModeloptError:
            continue
        assert all(isinstance(violation, invariants.Violation) for violation in invariants.check(model))
        checked += 1
    assert checked > 50


def test_input_of_a_loop_body_may_be_its_output() -> None:
    loop = body(
        [make("Relu", ["s"], ["s2"])],
        ["go", "s2"],
        inputs=[info("i", (), 7), info("go", (), 9), info("s")],
    )
    model = model_of([make("Loop", ["n", "", "x"], ["y"], body=loop)], inputs=["x", "n"])
    assert rules_broken_by(model) == []
