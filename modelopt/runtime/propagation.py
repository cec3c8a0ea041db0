"""Whether onnx's shape inference can be asked to propagate data: the numbers that shapes are computed from.

It copies them at every node, a vector of unknown numbers like one of known ones, and a chain of Concat that doubles
what it is given 34 times ends only with the memory. So does one Cast of a Range of 2^62 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
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
    """How many numbers a node makes that does not propagate them; 1 where what decides it is not constant."""
    value = next(iter(node.inputs), None)
    first = 1 if value is None else _elements(value, held)
    given = [graph.constant(value, max_bytes=_FEW_BYTES) for value in node.inputs]
    sizes = given if node.op_type == "Range" else given[:1] if node.op_type == "ConstantOfShape" else given[1:2]
    known = [array.astype(np.float64).ravel() for array in sizes if array is not None]
    constant = known and len(known) == len(sizes) and all(map(len, known))
    made = _MAKERS[node.op_type](first, known) if constant else 1.0
    return int(made) if math.isfinite(made) else 1


def _range(_: int, numbers: Sequence[np.ndarray]) -> float:
    if len(numbers) != 3 or not numbers[2][0]:
        return 1.0
    start, limit, step = (float(number[0]) for number in numbers)
    return max(math.ceil((limit - start) / step), 0) if math.isfinite((limit - start) / step) else 1.0


_FEW_BYTES = 64
_MAKERS: dict[str, Callable[[int, Sequence[np.ndarray]], float]] = {
    "ConstantOfShape": lambda _, shape: float(shape[0].prod()),
    "Expand": lambda elements, shape: max(elements, float(shape[0].prod())),
    "Tile": lambda elements, times: elements * float(times[0].prod()),
    "Pad": lambda elements, pads: max(elements + float(pads[0].sum()), 0.0),
    "Range": _range,
}
"""How many numbers operators make of as many elements and of constant sizes."""


def _elements(value: ir.Value, held: dict[ir.Value, int]) -> int:
    """How many numbers stand for a value: those of a vector, known or not; a tensor of another rank counts as one."""
    if value in held:
        return held[value]
    tensor = graph.constant_tensor(value)
    shape = graph.static_shape(value) if tensor is None else tuple(tensor.shape.numpy())
    return shape[0] if shape is not None and len(shape) == 1 else 1
