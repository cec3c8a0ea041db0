"""Bounds of functions of one or two numbers.

A function that rises or falls throughout has its bounds at the ends. One that falls and then rises, as HardSwish does,
has its upper bound at an end, and its lower bound is not below its minimum. Steps (Floor, Sign, ThresholdedRelu) are
left out: a constant that rounding moves over the step would become another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.interval_sums import Range

Function = Callable[[np.ndarray], np.ndarray]

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class RealFunction:
    """A function of one number.

    Attributes:
        function: float64 to float64, element by element; also of infinities.
        least: The minimum of one that falls and then rises; None for one that rises or falls throughout.
        is_rounded: Whether a runtime approximates it; minima and maxima are exact.
    """

    function: Function
    least: float | None = None
    is_rounded: bool = True


def bounds_of(shape: RealFunction, given: Range) -> Range:
    """The bounds of a function of a value with the bounds `given`, without rounding."""
    ends = (shape.function(given[0]), shape.function(given[1]))
    low, high = np.minimum(*ends), np.maximum(*ends)
    is_point = given[0] == given[1]
    if shape.least is not None:
        low = np.where(is_point, low, np.minimum(low, shape.least))
    return low, high


def outward(given: Range, epsilon: float, least: float = 0.0) -> Range:
    """Bounds moved outward by a share of themselves, of `least` at least; points stay points."""
    low, high = given
    is_point = low == high
    margins = [np.where(is_point | np.isinf(end), 0, epsilon * np.maximum(np.abs(end), least)) for end in given]
    return low - margins[0], high + margins[1]


def product(first: Range, second: Range) -> Range:
    """Bounds of a product; zero times an unbounded number is zero, because inputs are finite."""
    ends = [np.asarray(a * b) for a in first for b in second]
    ends = [np.where(np.isnan(end), 0, end) for end in ends]
    return np.minimum.reduce(ends), np.maximum.reduce(ends)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _times(gate: Function) -> Function:
    """``x · gate(x)`` with a gate that closes to the left: its limit there is 0."""
    return lambda x: np.where(np.isneginf(x), 0, x * gate(x))


def _gelu(node: ir.Node) -> RealFunction:
    if graph.attribute_string(node, "approximate", "none") == "tanh" or node.op_type == "FastGelu":
        return RealFunction(
            _times(lambda x: 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))), -0.1701
        )
    return RealFunction(_times(lambda x: 0.5 * (1 + _erf(x / math.sqrt(2)))), -0.17)


def _hard_sigmoid(node: ir.Node) -> RealFunction:
    slope, shift = graph.attribute_float(node, "alpha", 0.2), graph.attribute_float(node, "beta", 0.5)
    return RealFunction(lambda x: np.clip(_scaled(slope, x) + shift, 0, 1))


def _scaled(slope: float, x: np.ndarray) -> np.ndarray:
    return slope * x if slope else np.zeros_like(x)


def _elu(node: ir.Node) -> RealFunction | None:
    alpha, gamma = graph.attribute_float(node, "alpha", 1.0), 1.0
    if node.op_type == "Selu":
        alpha = graph.attribute_float(node, "alpha", 1.67326319217681884765625)
        gamma = graph.attribute_float(node, "gamma", 1.05070102214813232421875)
    inner = alpha if node.op_type == "Celu" else 1.0
    if alpha <= 0 or gamma < 0:
        return None
    return RealFunction(lambda x: gamma * (np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / inner)))


def _leaky(node: ir.Node) -> RealFunction | None:
    slope = graph.attribute_float(node, "alpha", 0.01)
    if slope < 0:
        return None
    return RealFunction(
        lambda x: np.maximum(x, 0) + _scaled(slope, np.minimum(x, 0)), is_rounded=slope not in {0.0, 1.0}
    )


def _clip(node: ir.Node) -> RealFunction | None:
    ends = [graph.attribute_float(node, "min", -np.inf), graph.attribute_float(node, "max", np.inf)]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            number = graph.scalar(value)
            if number is None:
                return None
            ends[index] = float(number)
    return (
        None
        if np.isnan(ends).any()
        else RealFunction(lambda x: np.minimum(np.maximum(x, ends[0]), ends[1]), is_rounded=False)
    )


def _cast(node: ir.Node) -> RealFunction | None:
    kept = {ir.DataType.FLOAT.value, ir.DataType.DOUBLE.value, ir.DataType.FLOAT16.value, ir.DataType.BFLOAT16.value}
    given = node.inputs[0]
    if (
        graph.attribute_int(node, "to", 0) not in kept
        or given is None
        or not given.dtype
        or given.dtype.value not in kept
    ):
        return None
    return RealFunction(lambda x: x)


def _dropout(node: ir.Node) -> RealFunction | None:
    return None if len(node.inputs) > 2 else RealFunction(lambda x: x, is_rounded=False)


def _mish(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.tanh(np.logaddexp(0, x)))


def _plain(shape: RealFunction) -> Callable[[ir.Node], RealFunction]:
    return lambda _: shape


UNARY: Mapping[tuple[str, str], Callable[[ir.Node], RealFunction | None]] = {
    ("", "Relu"): _plain(RealFunction(lambda x: np.maximum(x, 0), is_rounded=False)),
    ("", "Identity"): _plain(RealFunction(lambda x: x, is_rounded=False)),
    ("", "Neg"): _plain(RealFunction(lambda x: -x, is_rounded=False)),
    ("", "Abs"): _plain(RealFunction(np.abs, 0.0, is_rounded=False)),
    ("", "Sigmoid"): _plain(RealFunction(_sigmoid)),
    ("", "Tanh"): _plain(RealFunction(np.tanh)),
    ("", "Erf"): _plain(RealFunction(_erf)),
    ("", "Exp"): _plain(RealFunction(np.exp)),
    ("", "Softplus"): _plain(RealFunction(lambda x: np.logaddexp(0, x))),
    ("", "HardSwish"): _plain(RealFunction(_times(lambda x: np.clip(x / 6 + 0.5, 0, 1)), -0.375)),
    ("", "Mish"): _plain(RealFunction(_times(_mish), -0.3089)),
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "Gelu"): _gelu,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "FastGelu"): lambda node: _gelu(node) if len(node.inputs) == 1 else None,
    ("", "Elu"): _elu,
    ("", "Selu"): _elu,
    ("", "Celu"): _elu,
    ("", "LeakyRelu"): _leaky,
    ("", "Clip"): _clip,
    ("", "Cast"): _cast,
    ("", "Dropout"): _dropout,
}
"""By domain and operator: the function of the first input; None where a node's options make its shape unknown."""


def _powers(first: Range, second: Range) -> Range:
    low, high = first
    if not (second[0].size == 1 and second[0] == second[1] and float(second[0].flat[0]) in {2.0, 3.0}):
        return np.full_like(low, -np.inf), np.full_like(low, np.inf)
    power = int(second[0].flat[0])
    return bounds_of(RealFunction(lambda x: x**power, 0.0 if power == 2 else None), (low, high))


def _quotient(first: Range, second: Range) -> Range:
    low, high = second
    is_safe = (low > 0) | (high < 0)
    found = product(first, (1 / np.where(is_safe, high, 1), 1 / np.where(is_safe, low, 1)))
    return np.where(is_safe, found[0], -np.inf), np.where(is_safe, found[1], np.inf)


def _slopes(first: Range, second: Range) -> Range:
    """PRelu: x above zero, slope · x below."""
    below = product((np.minimum(first[0], 0), np.minimum(first[1], 0)), second)
    above = (np.maximum(first[0], 0), np.maximum(first[1], 0))
    ends = (np.where(first[0] >= 0, above[0], below[0]), np.where(first[0] >= 0, above[1], below[1]))
    mixed = (first[0] < 0) & (first[1] > 0)
    low = np.where(mixed, np.minimum(below[0], 0), ends[0])
    return low, np.where(mixed, np.maximum(below[1], above[1]), ends[1])


BINARY: Mapping[str, Callable[[Range, Range], Range]] = {
    "Add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "Sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "Mul": product,
    "Div": _quotient,
    "Max": lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])),
    "Min": lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])),
    "Sum": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "PRelu": _slopes,
    "Pow": _powers,
}
"""By operator of ONNX's own domain, how bounds combine; operators with many operands take them one by one."""
