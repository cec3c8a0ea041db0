"""Whether onnx's shape inference can propagate data: the numbers that shapes are computed from.

It copies these numbers at every node, unknown ones too, and has no limit. A chain of 34 Concat nodes that each double a
vector takes all memory, and so does one Cast of a Range of 2^62 numbers.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import schemas

MAX_ELEMENTS = 1_000_000
"""More numbers than any model needs to compute shapes with."""

_RANK = 8


def is_affordable(model: ir.Model) -> bool:
    """Whether at most `MAX_ELEMENTS` numbers are propagated through all scopes of `model`, by an upper estimate."""
    total = 0
    held: dict[ir.Value, int] = {}
    for node, opset in graph.nodes_with_opset(model):
        if not schemas.propagates_data(node, opset):
            if node.op_type in _MAKERS and node.domain in graph.STANDARD_DOMAINS:
                held[node.outputs[0]] = _made(node, held)
            continue
        read = [_elements(value, held) for value in node.inputs if value is not None]
        made = _RANK if node.op_type == "Shape" else sum(read) if node.op_type == "Concat" else max(read, default=1)
        held.update(dict.fromkeys(node.outputs, made))
        total += made
        if total > MAX_ELEMENTS:
            return False
    return True


def _made(node: ir.Node, held: dict[ir.Value, int]) -> int:
    """How many numbers a node makes that does not propagate them; 1 where that is no vector of a known size."""
    places, length = _MAKERS[node.op_type]
    arrays = [graph.constant(value, max_bytes=_FEW_BYTES) for value in node.inputs[places]]
    numbers = [float(n) for array in arrays if array is not None and array.dtype.kind in "iuf" for n in array.ravel()]
    if len(numbers) != length:
        return 1
    value = next(iter(node.inputs), None)
    elements = 1 if value is None else _elements(value, held)
    match node.op_type, numbers:
        case "Range", [start, limit, step]:
            made = (limit - start) / step if step else 1.0
        case "Tile", [times]:
            made = elements * times
        case "Pad", [before, after]:
            made = elements + before + after
        case _:
            made = numbers[0]
    return math.ceil(made) if math.isfinite(made) and made > 0 else 1


_FEW_BYTES = 64
_SECOND = slice(1, 2)
_MAKERS = {
    "ConstantOfShape": (slice(1), 1),
    "Expand": (_SECOND, 1),
    "Pad": (_SECOND, 2),
    "Range": (slice(3), 3),
    "Tile": (_SECOND, 1),
}
"""By operator the inputs that say how many numbers it makes, and how many numbers say so where it makes a vector."""


def _elements(value: ir.Value, held: dict[ir.Value, int]) -> int:
    """How many numbers stand for a value: those of a vector, known or not; a tensor of another rank counts as one."""
    if value in held:
        return held[value]
    tensor = graph.constant_tensor(value)
    shape = graph.static_shape(value) if tensor is None else tuple(tensor.shape.numpy())
    return shape[0] if shape is not None and len(shape) == 1 else 1
