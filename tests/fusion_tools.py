"""What tests of the fusion passes share: float models from x to y, and the check that a pass keeps their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from modelopt import passes
from modelopt.core.changes import Changes
from tests.helpers import WITHOUT_RUNNER
from tests.runtime_tools import session

TRUE = np.ones((), np.bool_)
"""Feeds the condition of a model that is made with ``in_branch``."""

PLACES = [
    {},
    {"in_nodes": True},
    {"in_branch": True},
    {"in_branch": True, "in_nodes": True},
    {"in_function": True},
]
"""Where the nodes and their weights may be: options of `float_model`."""


def apply(name: str, model: ir.Model) -> Changes:
    """Apply the pass `name` with its default options."""
    return passes.find(name)().apply(model, WITHOUT_RUNNER)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs on onnxruntime without its own optimizer."""
    loaded = session(ir.to_proto(model).SerializeToString(), optimizer=False)
    return [np.asarray(output) for output in loaded.run(None, feeds)]


def assert_fuses(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str, rewrites: int) -> ir.Model:
    """The pass `name` rewrites that many places, a second run rewrites none, and the outputs stay."""
    onnx.checker.check_model(model)
    fused = ir.from_proto(model)
    assert apply(name, fused).rewrites == rewrites
    assert apply(name, fused).rewrites == 0
    onnx.checker.check_model(ir.to_proto(fused))
    for before, after in zip(run(ir.from_proto(model), feeds), run(fused, feeds), strict=True):
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(before).max())))
    return fused


def float_model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    rank: int,
    *,
    in_nodes: bool = False,
    opset: int = 17,
    in_branch: bool = False,
    in_function: bool = False,
) -> onnx.ModelProto:
    """x → nodes → y, all float; the weights are initializers, or in Constant nodes beside the nodes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    inner = [*constants, *nodes] if in_nodes or in_function else list(nodes)
    initializers = [] if in_nodes or in_function else tensors
    imports = [helper.make_opsetid("", opset)]
    functions = []
    inputs = [x]
    if in_function:
        functions = [helper.make_function("local", "f", ["x"], ["y"], inner, imports)]
        imports = [*imports, helper.make_opsetid("local", 1)]
        inner = [helper.make_node("f", ["x"], ["y"], domain="local")]
    if in_branch:
        body = helper.make_graph(inner, "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        other = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["z"])], "other", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        body.output[0].name = "inner"
        body.node[-1].output[0] = "inner"
        inner = [helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=other)]
        inputs = [x, helper.make_tensor_value_info("p", TensorProto.BOOL, [])]
    graph = helper.make_graph(inner, "g", inputs, [y], initializers)
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


def conv_weights(
    rng: np.random.Generator, op: str, dims: int, group: int, *, bias: bool
) -> tuple[onnx.NodeProto, dict[str, np.ndarray], int]:
    """A convolution of 2 · group channels into 3 · group: (node x → c, weights, output channels)."""
    shape = (3 * group, 2) if op == "Conv" else (2 * group, 3)
    weights = {"w": rng.standard_normal((*shape, *[2] * dims)).astype(np.float32)}
    if bias:
        weights["b"] = rng.standard_normal(3 * group).astype(np.float32)
    return helper.make_node(op, ["x", *weights], ["c"], group=group), weights, 3 * group


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def feed(rng: np.random.Generator, *shape: int, place: dict[str, bool] | None = None) -> dict[str, np.ndarray]:
    """Random feeds of x, and of the condition where `place` has one."""
    return {"x": floats(rng, *shape)} | ({"p": TRUE} if (place or {}).get("in_branch") else {})


def operators(model: ir.Model) -> list[str]:
    """The operators of the graph's nodes, in order."""
    return [node.op_type for node in model.graph]


def rewrites(name: str, model: onnx.ModelProto) -> int:
    """How many rewrites the pass `name` makes in a copy of the model."""
    return apply(name, ir.from_proto(model)).rewrites


def graph_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`model` with the intermediate value `name` as one more output."""
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model
