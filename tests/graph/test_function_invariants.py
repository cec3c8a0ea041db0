"""Rules of functions: each has a model that breaks it, and a near miss that does not."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import helper

from modelopt.graph import invariants
from tests.graph.broken_rules import branches, rules_broken_by
from tests.helpers import body, model_of, weight

make = helper.make_node


# Functions


def test_only_in_a_function_an_attribute_refers_to_one() -> None:
    node = branches(body([make("Relu", ["x"], ["t"])], ["t"]))
    node.attribute[0].ref_attr_name = "branch"  # beside its own body, as a hostile file may have it
    model = model_of([node], inputs=["x", "c"])
    assert rules_broken_by(model) == [
        "if (If): its attribute 'else_branch' refers to one of a function, and it is in none"
    ]


def test_bodies_that_a_function_is_given_are_no_bodies_of_its_own() -> None:
    node = make("If", ["c"], ["b"], name="if")
    for name in ("then_branch", "else_branch"):
        node.attribute.add(name=name, ref_attr_name=name, type=onnx.AttributeProto.GRAPH)
    function = helper.make_function(
        "local", "F", ["c"], ["b"], [node], [helper.make_opsetid("", 18)], [*("then_branch", "else_branch")]
    )
    assert invariants.check(ir.from_proto(_calls(function))) == []


def _function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [
        make(call, [f"v{i}"], [f"v{i + 1}"], domain="" if call == "Relu" else "local") for i, call in enumerate(calls)
    ]
    return helper.make_function(
        "local", name, ["v0"], [f"v{len(calls)}"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    )


def _calls(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    call = make(functions[0].name, ["x"], ["y"], domain="local")
    return model_of([call], functions=functions, domains=["local"])


def test_functions_may_call_each_other() -> None:
    assert rules_broken_by(_calls(_function("F", "G", "G"), _function("G", "Relu"))) == []


def test_a_function_does_not_call_itself() -> None:
    assert rules_broken_by(_calls(_function("F", "F"))) == ["function 'F': calls itself"]


def test_a_function_does_not_call_itself_through_another() -> None:
    assert rules_broken_by(_calls(_function("F", "G"), _function("G", "Relu", "F"))) == ["function 'F': calls itself"]


def test_functions_do_not_explode() -> None:
    chain = [_function(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(30)]
    assert rules_broken_by(_calls(*chain, _function("F30", "Relu"))) == [
        "the functions: are more than 1,000,000 nodes once they are inlined"
    ]


def test_calls_of_functions_count_too() -> None:
    chain = [_function(f"F{i}", *[f"F{i + 1}"] * 10) for i in range(4)]  # 10,000 nodes
    calls = [make("F0", ["x"], [f"y{n}"], domain="local") for n in range(101)]
    model = model_of(calls, outputs=["y0"], functions=[*chain, _function("F4", "Relu")], domains=["local"])
    assert rules_broken_by(model) == ["the functions: are more than 1,000,000 nodes once they are inlined"]


def test_long_chains_of_functions_end() -> None:
    chain = [_function(f"F{i}", f"F{i + 1}") for i in range(3000)]
    assert rules_broken_by(_calls(*chain, _function("F3000", "Relu"))) == [
        "function 'F0': calls functions more than 100 deep"
    ]


def test_a_function_does_not_see_the_graph() -> None:
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [make("Add", ["a", "w"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model = model_of(
        [make("F", ["x"], ["y"], domain="local")],
        initializers=[weight("w", 4)],
        functions=[function],
        domains=["local"],
    )
    assert rules_broken_by(model) == ["b (Add): uses 'w' before it exists"]
