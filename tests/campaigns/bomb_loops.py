"""Small model files whose loops, branches and functions multiply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from tests.campaigns.bomb_parts import DEEP, ONE, integers, listed, model_of, node_of, summed_model

# Control flow and functions


def _loop_body(nodes: Sequence[NodeProto], *, shape: Sequence[int | str] = (1,), level: str = "") -> GraphProto:
    """A body that hands on its condition and computes ``b`` from ``a``; `level` ends all its names."""
    inputs = [
        helper.make_tensor_value_info(f"i{level}", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"ci{level}", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"a{level}", TensorProto.FLOAT, shape),
    ]
    outputs = [
        helper.make_tensor_value_info(f"co{level}", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"b{level}", TensorProto.FLOAT, shape),
    ]
    handing_on = node_of("Identity", [f"ci{level}"], [f"co{level}"])
    return helper.make_graph([handing_on, *nodes], "body", inputs, outputs)


def loop(body: GraphProto, trips: int, **more: np.ndarray) -> bytes:
    stored = {"m": np.array(trips, np.int64), "c": np.ones((), bool), "w": ONE, **more}
    return summed_model([node_of("Loop", ["m", "c", "w"], body=body)], stored)


@listed
def _loop_without_end() -> bytes:
    return loop(_loop_body([node_of("Add", ["a", "a"], ["b"])]), 2**62)


@listed
def _loop_that_doubles() -> bytes:
    return loop(_loop_body([node_of("Concat", ["a", "a"], ["b"], axis=0)], shape=("n",)), 40)


@listed
def _loop_that_collects() -> bytes:
    body = _loop_body([node_of("Add", ["a", "a"], ["b"]), node_of("Expand", ["a", "s"], ["e"])])
    body.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [2**20]))
    node = node_of("Loop", ["m", "c", "w"], ["l", "big"], body=body)
    stored = {"m": np.array(2**12, np.int64), "c": np.ones((), bool), "w": ONE, "s": integers(2**20)}
    return summed_model([node], stored)


@listed
def _loops_in_loops() -> bytes:
    return loop(nested(6), 2**10)


@listed
def _scan_over_much() -> bytes:
    body = helper.make_graph(
        [node_of("Add", ["a", "v"], ["b"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("a", "v")],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    nodes = [
        node_of("Expand", ["x", "s"], ["e"]),
        node_of("Squeeze", ["x"], ["q"]),
        node_of("Scan", ["q", "e"], ["big"], body=body, num_scan_inputs=1),
    ]
    return summed_model(nodes, {"s": integers(2**26)})


@listed
def _ifs_in_ifs() -> bytes:
    """Each branch holds two nodes of its own: nothing grows, but every name is looked up through all scopes."""
    inner = [node_of("Relu", ["x"], ["t0"])]
    for level in range(1, DEEP // 2):
        outs = [helper.make_tensor_value_info(f"t{level - 1}", TensorProto.FLOAT, [1])]
        both = [helper.make_graph(list(inner), name, [], outs) for name in ("then", "else")][:1]
        other = helper.make_graph([node_of("Neg", ["x"], [f"t{level - 1}"])], "else", [], outs)
        inner = [node_of("If", ["c"], [f"t{level}"], then_branch=both[0], else_branch=other)]
    last = inner[0].output[0]
    condition = [node_of("Greater", ["x", "w"], ["g"]), node_of("Squeeze", ["g"], ["c"])]
    return model_of([*condition, *inner, node_of("Identity", [last], ["z"])], {"w": ONE}).SerializeToString()


@listed
def _functions_that_double() -> bytes:
    """Function k calls function k-1 twice: 2^30 nodes when all calls are inlined."""
    model = model_of([helper.make_node("f30", ["x"], ["z"], domain="d")])
    model.opset_import.append(helper.make_opsetid("d", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    for level in range(31):
        nodes = [helper.make_node("Relu", ["a"], ["b"])]
        if level:
            nodes = [helper.make_node(f"f{level - 1}", [i], [o], domain="d") for i, o in (("a", "m"), ("m", "b"))]
        model.functions.append(helper.make_function("d", f"f{level}", ["a"], ["b"], nodes, imports))
    return model.SerializeToString()


@listed
def _function_that_calls_itself() -> bytes:
    model = model_of([helper.make_node("f", ["x"], ["z"], domain="d")])
    model.opset_import.append(helper.make_opsetid("d", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    nodes = [helper.make_node("f", ["a"], ["b"], domain="d")]
    model.functions.append(helper.make_function("d", "f", ["a"], ["b"], nodes, imports))
    return model.SerializeToString()


def nested(depth: int) -> GraphProto:
    body = _loop_body([node_of("Add", ["a0", "a0"], ["b0"])], level="0")
    for level in range(1, depth + 1):
        node = node_of("Loop", ["m", "c", f"a{level}"], [f"b{level}"], body=body)
        body = _loop_body([node], level=str(level))
    return body
