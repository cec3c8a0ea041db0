"""What a model does with each of its inputs, as far as that bounds or names the values worth feeding.

A random integer is 0 or 1 in most tools. It then reaches two rows of a table and one trip of a loop, and never the
number that the graph compares it with. This module reads from the graph which values an input may take, and which
constants decide what the graph does with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from modelopt import graph

MAX_TRIPS = 5
"""Loop counts are drawn from 0 to this."""

MAX_PLAIN = 9
"""Integers that only take part in arithmetic are drawn from 0 to this."""

_MAX_STEPS = 400
_MAX_CONSTANTS = 32
_MAX_CONSTANT_BYTES = 4096

# Operators whose output holds values of their input, or values that grow with it. Attention masks, ids and lengths
# travel through these to where they are used.
_MOVES = frozenset(
    {
        *("Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
        *("Slice", "Split", "Concat", "Pad", "Dropout", "SequenceConstruct", "SequenceAt", "Gather", "GatherND"),
        *("GatherElements", "DepthToSpace", "SpaceToDepth", "Compress", "ReduceMax", "ReduceMin", "ReduceMean"),
        *(
            "ReduceSum",
            "ReduceL1",
            "ReduceL2",
            "MaxPool",
            "GlobalMaxPool",
            "Relu",
            "Abs",
            "Floor",
            "Ceil",
            "Round",
            "Clip",
            "Max",
            "Min",
        ),
    }
)
_DATA_ONLY_AT_0 = frozenset(
    {"Reshape", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split", "Pad", "Gather"}
) | {*("GatherND", "GatherElements", "Clip", "ReduceMax", "ReduceMin", "ReduceMean", "Dropout", "CastLike", "Compress")}
_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Max", "Min", "Mod"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_LENGTHS_INPUT = 4
_FIRST_CARRIED = 2  # a Loop reads its trip count and its condition first; both mean something else in its body


@dataclass(frozen=True)
class InputUse:
    """What the graph does with one input.

    Attributes:
        low: The smallest integer that its use permits; None where nothing bounds it.
        high: The largest.
        constants: What the graph compares it with, clips it at, or chooses by: sorted numbers in the input's own units.
        is_flag: It says yes or no: it is cast to booleans, or taken from 1, as masks are.
        is_count: It says how often a loop runs.
    """

    low: int | None = None
    high: int | None = None
    constants: tuple[float, ...] = ()
    is_flag: bool = False
    is_count: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether other values would be errors."""
        return self.low is not None and self.high is not None

    def integers(self) -> tuple[int, int]:
        """The range to draw integers from, both ends included."""
        if self.low is not None and self.high is not None:
            return self.low, max(self.low, self.high)
        if self.is_flag:
            return 0, 1
        reached = [number for number in self.constants if abs(number) < 2**31]
        low, high = min(reached, default=0.0), max(reached, default=float(MAX_PLAIN - 1))
        return min(0, math.floor(low) - 1), math.ceil(high) + 1


@dataclass(frozen=True)
class _Place:
    """A value that holds ``scale · input + offset``, up to what moves data around."""

    value: ir.Value
    scale: float = 1.0
    offset: float = 0.0

    def at(self, value: ir.Value) -> _Place:
        return replace(self, value=value)

    def input_of(self, number: float) -> float:
        """The input at which this value is `number`."""
        return (number - self.offset) / self.scale


@dataclass
class _Found:
    bounds: list[tuple[float, float]] = field(default_factory=list)
    constants: set[float] = field(default_factory=set)
    is_flag: bool = False
    is_count: bool = False

    def bound(self, place: _Place, low: float, high: float) -> None:
        ends = sorted((place.input_of(low), place.input_of(high)))
        self.bounds.append((ends[0], ends[1]))

    def made(self) -> InputUse:
        finite = sorted(number for number in self.constants if math.isfinite(number))[:_MAX_CONSTANTS]
        if not self.bounds:
            return InputUse(None, None, tuple(finite), self.is_flag)
        low = math.ceil(max(low for low, _ in self.bounds))
        high = math.floor(min(high for _, high in self.bounds))
        return InputUse(low, max(low, high), tuple(finite), self.is_flag, self.is_count)


def uses_of(model: ir.Model) -> dict[str, InputUse]:
    """What the graph does with each input that is not an initializer, by its name."""
    names = set(model.graph.initializers)
    return {value.name: _use_of(model, value) for value in model.graph.inputs if value.name and value.name not in names}


def ranges_of(model: ir.Model) -> dict[str, tuple[int, int]]:
    """Between which integers an input must lie, both ends included, by its name; without inputs that nothing bounds."""
    return {name: use.integers() for name, use in uses_of(model).items() if use.is_bounded}


def _use_of(model: ir.Model, value: ir.Value) -> InputUse:
    found = _Found()
    waiting = deque([_Place(value)])
    seen = {id(value)}
    steps = 0
    while waiting and steps < _MAX_STEPS:
        place = waiting.popleft()
        steps += 1
        for use in place.value.uses():
            _note(found, place, use.node, use.idx)
            for after in _onward(model, place, use.node, use.idx):
                if id(after.value) not in seen:
                    seen.add(id(after.value))
                    waiting.append(after)
    return found.made()


# What a use says


def _note(found: _Found, place: _Place, node: ir.Node, index: int) -> None:
    if node.domain not in graph.STANDARD_DOMAINS:
        return
    _note_index(found, place, node, index)
    _note_constants(found, place, node, index)
    if _is_flag(node, index):
        found.is_flag = True


def _note_index(found: _Found, place: _Place, node: ir.Node, index: int) -> None:
    """Uses that permit only some integers."""
    op = node.op_type
    if op in {"Gather", "GatherElements"} and index == 1:
        axis = graph.attribute_int(node, "axis", 0)
        rows = _size(node.inputs[0], axis)
        found.bound(place, 0, 0 if rows is None else rows - 1)
    elif op in {"GatherND", "ScatterElements", "ScatterND"} and index == 1:
        found.bound(place, 0, min(graph.static_shape(node.inputs[0]) or (1,)) - 1)
    elif op == "OneHot" and index == 0:
        depth = graph.scalar(node.inputs[1])
        found.bound(place, 0, 0 if depth is None else float(depth) - 1)
    elif (op == "Loop" and index == 0) or op == "Range":
        found.bound(place, 0 if op == "Loop" or index != 2 else 1, MAX_TRIPS)
        found.is_count |= op == "Loop"
    elif op == "TopK" and index == 1:
        size = _size(node.inputs[0], graph.attribute_int(node, "axis", -1))
        found.bound(place, 1, 1 if size is None else size)
    elif (op in {"Tile", "Expand", "ConstantOfShape"} and index == (op != "ConstantOfShape")) or (
        op in _RECURRENT and index == _LENGTHS_INPUT
    ):
        found.bound(place, 1, 3 if op not in _RECURRENT else 1)


def _size(value: ir.Value | None, axis: int) -> int | None:
    """The size of one axis, None where it is not known."""
    tensor = graph.constant_tensor(value)
    if tensor is not None:
        shape = tuple(tensor.shape.numpy())
        return int(shape[axis]) if -len(shape) <= axis < len(shape) else None
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) and size >= 0 else None


def _note_constants(found: _Found, place: _Place, node: ir.Node, index: int) -> None:
    """Numbers at which the graph changes what it does."""
    op = node.op_type
    others: list[ir.Value | None] = []
    if op in _COMPARISONS:
        others = [other for i, other in enumerate(node.inputs) if i != index]
    elif op == "Clip" and index == 0:
        others = list(node.inputs[1:])
        found.constants.update(
            place.input_of(graph.attribute_float(node, key, math.inf))
            for key in ("min", "max")
            if key in node.attributes
        )
    elif op == "Where" and index > 0:
        others = [node.inputs[3 - index]]
    elif op in {"Relu", "PRelu", "LeakyRelu", "Abs", "Sign", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sqrt", "Log"}:
        found.constants.add(place.input_of(0.0))
    elif op == "HardSigmoid":
        alpha, beta = graph.attribute_float(node, "alpha", 0.2), graph.attribute_float(node, "beta", 0.5)
        found.constants.update(place.input_of((end - beta) / alpha) for end in (0.0, 1.0) if alpha)
    for other in others:
        array = graph.constant(other, max_bytes=_MAX_CONSTANT_BYTES)
        if array is not None and array.dtype.kind in "fiu":
            found.constants.update(place.input_of(float(number)) for number in np.unique(array)[:_MAX_CONSTANTS])


def _is_flag(node: ir.Node, index: int) -> bool:
    """Whether this use takes the value for a yes or a no."""
    op = node.op_type
    if op in {"Not", "And", "Or", "Xor"} or (op in {"Where", "If", "Compress"} and index == (op == "Compress")):
        return True
    if op == "Cast":
        return graph.attribute_int(node, "to", 0) == int(ir.DataType.BOOL)
    return op == "Sub" and index == 1 and graph.scalar(node.inputs[0]) == 1


# Where a value goes


def _onward(model: ir.Model, place: _Place, node: ir.Node, index: int) -> Iterator[_Place]:
    """The values that hold what `place` holds after this use."""
    function = model.functions.get(node.op_identifier())
    if function is not None:
        yield from (place.at(inner) for inner in list(function.inputs)[index : index + 1])
    elif node.domain not in graph.STANDARD_DOMAINS:
        return
    elif node.op_type == "Scan" or (node.op_type == "Loop" and index >= _FIRST_CARRIED):
        for body in graph.bodies(node):
            yield from (place.at(inner) for inner in list(body.inputs)[index : index + 1])
    elif node.op_type in {"Add", "Sub", "Mul", "Div", "Neg"}:
        yield from _affine(place, node, index)
    elif node.op_type == "Where" and index > 0:
        yield place.at(node.outputs[0])
    elif node.op_type in _MOVES and (index == 0 or node.op_type not in _DATA_ONLY_AT_0):
        yield from map(place.at, node.outputs)


def _affine(place: _Place, node: ir.Node, index: int) -> Iterator[_Place]:
    """What arithmetic with one number makes of it; arithmetic with others is followed as if it were nothing."""
    out = node.outputs[0]
    if node.op_type == "Neg":
        yield _Place(out, -place.scale, -place.offset)
        return
    other = graph.scalar(node.inputs[1 - index])
    if other is None or isinstance(other, bool) or not math.isfinite(other):
        return
    number = float(other)
    if node.op_type == "Add":
        yield _Place(out, place.scale, place.offset + number)
    elif node.op_type == "Sub":
        sign = 1.0 if index == 0 else -1.0
        yield _Place(out, sign * place.scale, sign * (place.offset - number))
    elif node.op_type == "Mul" and number:
        yield _Place(out, place.scale * number, place.offset * number)
    elif node.op_type == "Div" and number and index == 0:
        yield _Place(out, place.scale / number, place.offset / number)
