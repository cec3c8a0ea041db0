"""The precision in which each output of a model is computed: the tolerance of exact rewrites depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import onnx_ir as ir

from modelopt import graph
from modelopt.measure.tolerance import BFLOAT16, FLOAT16, FLOAT32, FLOOR, ROUNDED, ROUNDED_BFLOAT16, Tolerance

_STEPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearConv", "QLinearMatMul"})
_CASTS = frozenset({"Cast", "CastLike"})
_NO_ARITHMETIC = graph.DATA_MOVEMENT | {
    *("Where", "Relu", "Clip", "Max", "Min", "MaxPool", "Neg", "ConstantOfShape", "If", "Loop", "Scan"),
}
_NO_FLOATS = frozenset({"Shape", "Size", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"})


class Precision(IntEnum):
    """How coarsely an output is computed; of several paths to it the coarsest counts.

    Attributes:
        FULL: Everything is computed in float32 or float64.
        ROUNDED: Some value on the path is rounded to float16, but no operator computes in it.
        ROUNDED_BFLOAT16: The same with bfloat16.
        STEPPED: Some value on the path is quantized to integers: few values change by rounding, but by large steps.
        HALF: Some operator on the path computes in float16.
        BFLOAT16: Some operator computes in bfloat16, or in fewer bits.
    """

    FULL = 0
    ROUNDED = 1
    ROUNDED_BFLOAT16 = 2
    STEPPED = 3
    HALF = 4
    BFLOAT16 = 5

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance before the model's own noise is known."""
        return _TOLERANCES[self]

    @property
    def is_smooth(self) -> bool:
        """Whether a small change of a weight makes a small change of each value of the output."""
        return self is Precision.FULL

    @property
    def has_noise(self) -> bool:
        """Whether the output's noise, over all its values, can be measured by small changes of weights and feeds."""
        return self < Precision.STEPPED


_TOLERANCES = {
    Precision.FULL: FLOOR,
    Precision.ROUNDED: ROUNDED,
    Precision.ROUNDED_BFLOAT16: ROUNDED_BFLOAT16,
    Precision.STEPPED: FLOAT32,
    Precision.HALF: FLOAT16,
    Precision.BFLOAT16: BFLOAT16,
}


@dataclass(frozen=True)
class _Level:
    """The precision in which a value was computed, and the half precision that it is stored in, if it is."""

    precision: Precision
    half: Precision | None = None  # HALF or BFLOAT16


_PLAIN = _Level(Precision.FULL)


def precisions(model: ir.Model) -> tuple[Precision, ...]:
    """The precision of each output, in order."""
    levels = _levels_of(model.graph, {}, model)
    return tuple(_level(value, levels).precision for value in model.graph.outputs)


def _levels_of(scope: ir.Graph | ir.Function, outer: Mapping[int, _Level], model: ir.Model) -> dict[int, _Level]:
    """The level of each value of a scope, by identity; `outer` holds the values that the scope may capture."""
    levels = dict(outer)
    for node in scope:
        level = _after(node, levels, model)
        levels.update({id(out): level for out in node.outputs})
    return levels


def _level(value: ir.Value | None, levels: Mapping[int, _Level]) -> _Level:
    if value is None:
        return _PLAIN
    if id(value) in levels:
        return levels[id(value)]
    half = _half(value.dtype if value.const_value is None else value.const_value.dtype)
    return _Level(Precision.FULL, half)


def _half(dtype: ir.DataType | None) -> Precision | None:
    """The precision of computing with a dtype that is coarser than float32, else None."""
    if dtype is None or not dtype.is_floating_point() or dtype.bitwidth >= 32:
        return None
    return Precision.HALF if dtype == ir.DataType.FLOAT16 else Precision.BFLOAT16


def _after(node: ir.Node, levels: Mapping[int, _Level], model: ir.Model) -> _Level:
    """The level of a node's outputs."""
    read = [_level(value, levels) for value in node.inputs]
    inner = [
        _level(out, found)
        for body in graph.bodies(node)
        for found in [_levels_of(body, levels, model)]
        for out in body.outputs
    ]
    function = model.functions.get(node.op_identifier())
    if function is not None:
        found = _levels_of(function, dict(zip(map(id, function.inputs), read, strict=False)), model)
        inner = [_level(out, found) for out in function.outputs]
    coarsest = max((level.precision for level in (*read, *inner)), default=Precision.FULL)
    half = _coarser(level.half for level in (*read, *inner))
    if node.op_type in _STEPS:
        return _Level(max(coarsest, Precision.STEPPED))
    if node.op_type in _CASTS:
        return _cast(node, coarsest, read)
    if node.op_type == "Constant":
        tensor = graph.constant_node_tensor(node)
        return _Level(Precision.FULL, None if tensor is None else _half(tensor.dtype))
    if node.op_type in _NO_FLOATS:
        return _Level(coarsest)
    if half is not None and node.op_type not in _NO_ARITHMETIC and function is None:
        coarsest = max(coarsest, half)
    return _Level(coarsest, half)


def _cast(node: ir.Node, coarsest: Precision, read: list[_Level]) -> _Level:
    if node.op_type == "Cast":
        half = _half(ir.DataType(graph.attribute_int(node, "to", ir.DataType.FLOAT)))
    else:
        half = read[1].half if len(read) > 1 else None
    if half is None or half == read[0].half:
        return _Level(coarsest, half)
    rounded = Precision.ROUNDED if half is Precision.HALF else Precision.ROUNDED_BFLOAT16
    return _Level(max(coarsest, rounded), half)


def _coarser(found: Iterable[Precision | None]) -> Precision | None:
    return max((each for each in found if each is not None), default=None)
