"""Constant nodes without a numpy kernel, evaluated together by onnxruntime in the limited child."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.region import Pending
from modelopt.consteval.sizes import of_shape
from modelopt.core.errors import Refused, WorkerDied
from modelopt.core.runner import Runner

_NUMPY_KINDS = "biufc"
_IR_VERSION = 10


def answer(
    pending: Sequence[Pending], runner: Runner, max_bytes: int
) -> tuple[dict[ir.Node, list[np.ndarray]], dict[ir.Node, str]]:
    """Evaluate nodes on their constant inputs.

    Args:
        pending: The nodes; their inputs must be known.
        runner: Runs them in the child process.
        max_bytes: The largest result that is asked for. Its size must be declared in the model.

    Returns:
        Outputs by node, and reasons by node where there are none. Nodes of another opset than the first one's are in
        neither: ask again.
    """
    reasons = {item.node: reason for item in pending if (reason := _why_not(item, max_bytes)) is not None}
    asked = [item for item in pending if item.node not in reasons]
    if not asked:
        return {}, reasons
    asked = [item for item in asked if item.opset == asked[0].opset]
    answers, refusals = _run(asked, runner)
    return answers, reasons | refusals


def _run(asked: Sequence[Pending], runner: Runner) -> tuple[dict[ir.Node, list[np.ndarray]], dict[ir.Node, str]]:
    """Outputs by node, and reasons by node. A batch that onnxruntime refuses is halved, to find the node at fault."""
    try:
        arrays = next(iter(runner.run(_model(asked), [{}])))
    except (Refused, WorkerDied) as error:
        if len(asked) == 1 or isinstance(error, WorkerDied):  # each further crash or timeout may take as long
            cause = error.note or error.fact
            return {}, {item.node: f"onnxruntime did not evaluate it: {cause}" for item in asked}
    else:
        remaining = iter(arrays)
        return {item.node: [next(remaining) for _ in item.node.outputs] for item in asked}, {}
    middle = len(asked) // 2
    halves = [_run(half, runner) for half in (asked[:middle], asked[middle:])]
    return halves[0][0] | halves[1][0], halves[0][1] | halves[1][1]


def _why_not(item: Pending, max_bytes: int) -> str | None:
    for value in item.node.outputs:
        shape = graph.static_shape(value)
        if shape is None or value.dtype is None:
            return "numpy does not evaluate it, and its output's shape is not declared"
        dtype = None if value.dtype == ir.DataType.STRING else value.dtype.numpy()
        if dtype is None or dtype.kind not in _NUMPY_KINDS:
            return f"{value.dtype.name} results are not exchanged with onnxruntime"
        size = of_shape(shape, np.empty(0, dtype))
        if size > max_bytes:
            return f"its result would take {size} bytes, more than max-tensor-bytes"
    return None


def _model(items: Sequence[Pending]) -> ir.Model:
    """A model without inputs whose outputs are those of all nodes in turn."""
    initializers: list[ir.Value] = []
    nodes: list[ir.Node] = []
    for item in items:
        inputs = [
            None if array is None else _stored(array, len(initializers) + i) for i, array in enumerate(item.inputs)
        ]
        initializers += [value for value in inputs if value is not None]
        outputs = [
            ir.Value(name=f"out_{len(nodes)}_{i}", shape=value.shape, type=value.type)
            for i, value in enumerate(item.node.outputs)
        ]
        attributes = item.node.attributes.values()
        nodes.append(ir.Node("", item.node.op_type, inputs, attributes, outputs=outputs))
    results = [value for node in nodes for value in node.outputs]
    imports = {"": items[0].opset}
    whole = ir.Graph([], results, nodes=nodes, initializers=initializers, opset_imports=imports, name="constants")
    return ir.Model(whole, ir_version=_IR_VERSION)


def _stored(array: np.ndarray, number: int) -> ir.Value:
    return graph.stored_value(ir.tensor(np.array(array, order="C"), name=f"in_{number}"))
