"""Whether onnx's shape inference can be asked to propagate data: the numbers that shapes are computed from.

It copies them at every node, a vector of unknown numbers like one of known ones, and a chain of Concat that doubles
what it is given 34 times ends only with the memory.
"""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph, schemas

MAX_ELEMENTS = 1_000_000
"""More numbers than any model needs to compute shapes with."""

_RANK = 8


def is_affordable(model: ir.Model) -> bool:
    """Whether at most `MAX_ELEMENTS` numbers are propagated through all scopes of `model`, by an upper estimate."""
    total = 0
    held: dict[ir.Value, int] = {}
    for node, opset in graph.nodes_with_opset(model):
        if not schemas.propagates_data(node, opset):
            continue
        read = [_elements(value, held) for value in node.inputs if value is not None]
        made = _RANK if node.op_type == "Shape" else sum(read) if node.op_type == "Concat" else max(read, default=1)
        held.update(dict.fromkeys(node.outputs, made))
        total += made
        if total > MAX_ELEMENTS:
            return False
    return True


def _elements(value: ir.Value, held: dict[ir.Value, int]) -> int:
    """How many numbers stand for a value: those of a vector, known or not; a tensor of another rank counts as one."""
    if value in held:
        return held[value]
    tensor = graph.constant_tensor(value)
    shape = graph.static_shape(value) if tensor is None else tuple(tensor.shape.numpy())
    return shape[0] if shape is not None and len(shape) == 1 else 1
