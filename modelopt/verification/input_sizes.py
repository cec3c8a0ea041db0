"""Which sizes a graph requires of its inputs: those that its weights fix, and lengths that constants in it hold.

A model may declare all dimensions free and still run only with the number of channels of its first weight.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import is_free
from modelopt.graph.operators import RECURRENT

MAX_LENGTHS = 10
"""How many of the lengths that constants of the graph hold are tried."""

_MAX_STEPS = 200
_LENGTHS = range(2, 100_001)
_MAX_BYTES = 4096
_SAME_SHAPE = frozenset(
    {
        *("Identity", "Cast", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Abs", "Neg", "Sqrt", "Log", "Exp", "Clip"),
        *("Dropout", "Softmax", "LogSoftmax", "Floor", "Ceil", "Round", "Erf", "Pow", "Elu", "HardSwish", "Gelu"),
        *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "QuantizeLinear", "DequantizeLinear"),
        *("Add", "Sub", "Mul", "Div"),
    }
)
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Where", "Max", "Min", "Concat"})
_FIRST_STATE = 5


@dataclass(frozen=True)
class _WithAxes:
    """A value with axes of an input: `axes` gives for each of its axes that of the input, or None for a new one."""

    value: ir.Value
    axes: tuple[int | None, ...]


def sizes_of(model: ir.Model) -> dict[tuple[str, int], int]:
    """The sizes that weights fix, by the input's name and axis; only of axes that the model declares free."""
    found: dict[tuple[str, int], int] = {}
    for value in model.graph.inputs:
        if value.name is None or value.name in model.graph.initializers or value.shape is None:
            continue
        for axis, size in _asked(value):
            dim = value.shape[axis]
            if size > 0 and is_free(dim if isinstance(dim, int) else None):
                found.setdefault((value.name, axis), size)
    return found


def _asked(value: ir.Value) -> Iterator[tuple[int, int]]:
    """Axes of an input and the sizes that nodes after it require there."""
    waiting = deque([_WithAxes(value, tuple(range(len(value.shape or ()))))])
    seen = {id(value)}
    for _ in range(_MAX_STEPS):
        if not waiting:
            return
        place = waiting.popleft()
        for use in place.value.uses():
            node = use.node
            if node.domain not in graph.STANDARD_DOMAINS:
                continue
            for axis, size in _by_node(node, use.idx, len(place.axes)):
                own = place.axes[axis] if -len(place.axes) <= axis < len(place.axes) else None
                if own is not None:
                    yield own, size
            axes = _axes_after(node, use.idx, place.axes)
            if axes is not None and node.outputs and id(node.outputs[0]) not in seen:
                seen.add(id(node.outputs[0]))
                waiting.append(_WithAxes(node.outputs[0], axes))


def _by_node(node: ir.Node, index: int, rank: int) -> Iterator[tuple[int, int]]:
    """Axes of the input `index` of a node, and the sizes that the node's weights need there."""
    op = node.op_type
    if op in _BROADCAST - {"Concat"}:
        for position, value in enumerate(node.inputs):
            shape = _shape(value) if position != index else None
            if shape is not None and len(shape) <= rank:
                yield from ((axis - len(shape), size) for axis, size in enumerate(shape) if size > 1)
        return
    weight = _shape(node.inputs[1]) if len(node.inputs) > 1 else None
    if op == "MatMul":
        other = _shape(node.inputs[1 - index])
        if other is not None and len(other) > 1:
            yield (-1, other[-2]) if index == 0 else (-2, other[-1])
    elif weight is not None:
        yield from _by_weight(node, index, weight)


def _by_weight(node: ir.Node, index: int, weight: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """As `_by_node`, for nodes whose second input is a weight of this shape."""
    op = node.op_type
    if op in RECURRENT:
        hidden = _shape(node.inputs[2]) if len(node.inputs) > 2 else None
        if index == 0 and weight:
            yield 2, weight[-1]
        elif index >= _FIRST_STATE and hidden:
            yield 0, hidden[0]
            yield 2, hidden[-1]
    elif index == 0 and op in {"Conv", "ConvTranspose"} and len(weight) > 1:
        yield 1, weight[0] if op == "ConvTranspose" else weight[1] * graph.attribute_int(node, "group", 1)
    elif index == 0 and op == "Gemm" and len(weight) > 1:
        turned, other = graph.attribute_int(node, "transA", 0), graph.attribute_int(node, "transB", 0)
        yield (0 if turned else 1), weight[1 if other else 0]
    elif index == 0 and op == "BatchNormalization" and weight:
        yield 1, weight[0]
    elif index == 0 and op == "LayerNormalization":
        yield from ((axis - len(weight), size) for axis, size in enumerate(weight))


def _axes_after(node: ir.Node, index: int, axes: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """The axes of the node's output; None where the operator is not followed."""
    op = node.op_type
    if op == "Transpose":
        perm = graph.attribute_ints(node, "perm") or tuple(reversed(range(len(axes))))
        return tuple(axes[axis] for axis in perm) if sorted(perm) == list(range(len(axes))) else None
    if op in {"Squeeze", "Unsqueeze"} and index == 0:
        return _reshaped(node, axes)
    if op in _BROADCAST and op in _SAME_SHAPE:
        others = [value for position, value in enumerate(node.inputs) if position != index]
        shapes = [_shape(value) for value in others]
        return axes if all(shape is not None and len(shape) <= len(axes) for shape in shapes) else None
    return axes if op in _SAME_SHAPE and index == 0 else None


def _reshaped(node: ir.Node, axes: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    given = graph.attribute_ints(node, "axes")
    if given is None and len(node.inputs) > 1:
        array = graph.constant(node.inputs[1], max_bytes=_MAX_BYTES)
        given = None if array is None else tuple(int(axis) for axis in array.ravel())
    if given is None:
        return None
    if node.op_type == "Squeeze":
        gone = {axis % len(axes) for axis in given} if axes else set()
        return tuple(own for axis, own in enumerate(axes) if axis not in gone)
    rank = len(axes) + len(given)
    new = {axis % rank for axis in given}
    left = iter(axes)
    return tuple(None if axis in new else next(left, None) for axis in range(rank))


def _shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a constant, also where it is stored as integers and dequantized."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]
    tensor = graph.constant_tensor(value)
    return None if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


# Lengths


def lengths_in(model: ir.Model) -> tuple[int, ...]:
    """Sizes in constants of the graph, the most frequent first: those of Reshape and Slice, and of added tables."""
    counts: Counter[int] = Counter()
    for node in graph.all_nodes(model):
        if node.domain in graph.STANDARD_DOMAINS:
            counts.update(set(_mentioned(node)))
    return tuple(size for size, _ in counts.most_common() if size in _LENGTHS)[:MAX_LENGTHS]


def _mentioned(node: ir.Node) -> Iterator[int]:
    if node.op_type in {"Reshape", "Expand"} and len(node.inputs) > 1:
        yield from _numbers(node.inputs[1])
    elif node.op_type == "Slice":
        yield from (number for value in node.inputs[1:3] for number in _numbers(value))
    elif node.op_type in _BROADCAST:
        for value in node.inputs:
            shape = _shape(value)
            yield from (shape[:-1] if shape is not None and len(shape) > 1 else ())


def _numbers(value: ir.Value | None) -> Sequence[int]:
    array = graph.constant(value, max_bytes=_MAX_BYTES)
    return [] if array is None or array.dtype.kind not in "iu" else [abs(int(number)) for number in array.ravel()]
