"""How a model uses each of its inputs: which values an input may take, and which constants it is compared with.

Most tools draw random integers from 0 and 1. Such integers reach two rows of a table and one trip of a loop, and never
the number that the graph compares them with.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.data.synthetic import Words
from modelopt.verification.words import words_of

MAX_TRIPS = 5
"""Loop counts are drawn from 0 to this."""

MAX_PLAIN = 9
"""Integers that only take part in arithmetic are drawn from 0 to this."""

_MAX_STEPS = 400
_MAX_CONSTANTS = 32
_MAX_CONSTANT_BYTES = 4096

# Operators whose output holds values of their input, or values that grow with it: a bound or a comparison behind them
# is one of the input.
_FOLLOWED = graph.DATA_MOVEMENT | {
    *("Cast", "CastLike", "Relu", "Abs", "Floor", "Ceil", "Round", "Clip", "Max", "Min", "MaxPool", "GlobalMaxPool"),
    *("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2"),
}
_OF_ALL_INPUTS = frozenset({"Concat", "Max", "Min"})
_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Max", "Min", "Mod"})
_FIRST_CARRIED = 2  # a Loop reads its trip count and its condition first; both mean something else in its body


@dataclass(frozen=True)
class InputUse:
    """What the graph does with one input.

    Attributes:
        low: The smallest integer that its use permits; None where nothing bounds it.
        high: The largest.
        constants: The numbers that the graph compares it with or clips it at, sorted, in the input's own units.
        is_flag: It means yes or no: it is cast to booleans, or subtracted from 1, as masks are.
        is_count: It is the trip count of a Loop.
        words: The strings that an input of strings is drawn from.
    """

    low: int | None = None
    high: int | None = None
    constants: tuple[float, ...] = ()
    is_flag: bool = False
    is_count: bool = False
    words: Words = ()

    @property
    def is_bounded(self) -> bool:
        """Whether values outside of `low` and `high` would be errors."""
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
class _Multiple:
    """A value that holds elements of ``scale · input + offset``, perhaps moved."""

    value: ir.Value
    scale: float = 1.0
    offset: float = 0.0

    def at(self, value: ir.Value) -> _Multiple:
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

    def bound(self, place: _Multiple, low: float, high: float) -> None:
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
    """The use of each input that is not an initializer, by its name."""
    names, words = set(model.graph.initializers), words_of(model)
    inputs = {value.name: value for value in model.graph.inputs if value.name and value.name not in names}
    return {name: replace(_use_of(model, value), words=words.get(name, ())) for name, value in inputs.items()}


def _use_of(model: ir.Model, value: ir.Value) -> InputUse:
    found = _Found()
    waiting = deque([_Multiple(value)])
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


# What one use of a value shows


def _note(found: _Found, place: _Multiple, node: ir.Node, index: int) -> None:
    if node.domain not in graph.STANDARD_DOMAINS:
        return
    _note_index(found, place, node, index)
    _note_constants(found, place, node, index)
    if _is_flag(node, index):
        found.is_flag = True


def _note_index(found: _Found, place: _Multiple, node: ir.Node, index: int) -> None:
    """Uses that permit only some integers."""
    if (node.op_type, index) in _PERMITTED:
        found.bound(place, *_PERMITTED[node.op_type, index](node))
        found.is_count |= (node.op_type, index) == ("Loop", 0)


def _rows(node: ir.Node) -> tuple[int, int]:
    size = _size(node.inputs[0], graph.attribute_int(node, "axis", 0))
    return 0, 0 if size is None else size - 1


def _rows_of_all_axes(node: ir.Node) -> tuple[int, int]:
    return 0, min(graph.static_shape(node.inputs[0]) or (1,), default=1) - 1


def _classes(node: ir.Node) -> tuple[int, int]:
    depth = graph.scalar(node.inputs[1])
    return 0, 0 if depth is None else int(depth) - 1


def _places(node: ir.Node) -> tuple[int, int]:
    size = _size(node.inputs[0], graph.attribute_int(node, "axis", -1))
    return 1, 1 if size is None else max(size, 1)


_PERMITTED: dict[tuple[str, int], Callable[[ir.Node], tuple[int, int]]] = {
    ("Gather", 1): _rows,
    ("GatherElements", 1): _rows,
    ("GatherND", 1): _rows_of_all_axes,
    ("ScatterElements", 1): _rows_of_all_axes,
    ("ScatterND", 1): _rows_of_all_axes,
    ("OneHot", 0): _classes,
    ("TopK", 1): _places,
    ("Loop", 0): lambda _node: (0, MAX_TRIPS),
    ("Range", 0): lambda _node: (0, MAX_TRIPS),
    ("Range", 1): lambda _node: (0, MAX_TRIPS),
    ("Range", 2): lambda _node: (1, MAX_TRIPS),
    **{(op, 1): lambda _node: (1, 3) for op in ("Tile", "Expand")},
    ("ConstantOfShape", 0): lambda _node: (1, 3),
    **{(op, 4): lambda _node: (1, 1) for op in ("LSTM", "GRU", "RNN")},  # lengths: one step is within any sequence
}
"""By operator and input: the integers that are no error there, both ends included."""


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


def _note_constants(found: _Found, place: _Multiple, node: ir.Node, index: int) -> None:
    """Numbers at which the graph starts to compute something else."""
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
    """Whether this use reads the value as yes or no."""
    op = node.op_type
    if op in {"Not", "And", "Or", "Xor"} or (op in {"Where", "If", "Compress"} and index == (op == "Compress")):
        return True
    if op == "Cast":
        return graph.attribute_int(node, "to", 0) == int(ir.DataType.BOOL)
    return op == "Sub" and index == 1 and graph.scalar(node.inputs[0]) == 1


# Which values a node gives on


def _onward(model: ir.Model, place: _Multiple, node: ir.Node, index: int) -> Iterator[_Multiple]:
    """The outputs, or inputs of bodies and functions, that hold the elements of `place` after this use."""
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
    elif node.op_type in _FOLLOWED and (index == 0 or node.op_type in _OF_ALL_INPUTS):
        yield from map(place.at, node.outputs)


def _affine(place: _Multiple, node: ir.Node, index: int) -> Iterator[_Multiple]:
    """The output of arithmetic with one constant number; arithmetic with other values is not followed."""
    out = node.outputs[0]
    if node.op_type == "Neg":
        yield _Multiple(out, -place.scale, -place.offset)
        return
    other = graph.scalar(node.inputs[1 - index])
    if other is None or isinstance(other, bool) or not math.isfinite(other):
        return
    number = float(other)
    if node.op_type == "Add":
        yield _Multiple(out, place.scale, place.offset + number)
    elif node.op_type == "Sub":
        sign = 1.0 if index == 0 else -1.0
        yield _Multiple(out, sign * place.scale, sign * (place.offset - number))
    elif node.op_type == "Mul" and number:
        yield _Multiple(out, place.scale * number, place.offset * number)
    elif node.op_type == "Div" and number and index == 0:
        yield _Multiple(out, place.scale / number, place.offset / number)
