"""Which numbers a channel can hold, whatever the input: interval arithmetic from the constants of a model.

Inputs of the model are unbounded; Sigmoid, Tanh, Clip, Relu and their like bound what follows them. Bounds are kept
along one axis of a value, that of the channels, and hold for all other positions. Where both bounds are equal the
channel is *constant*: it holds that number for every finite input, up to rounding. Only the main graph is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.types import FLOATS
from modelopt.pruning.interval_functions import BINARY, UNARY, bounds_of, outward
from modelopt.pruning.interval_sums import Range

_MOST_ELEMENTS = 2**20
"""Of a stored operand whose bounds are computed; a larger one counts as unbounded."""

FEW_ULPS = 8
"""How many units in the last place a runtime's result may be from the exact one, for a single operation."""


_SUMS = frozenset({"Add", "Sub", "Sum"})
"""An unbounded operand leaves their result unbounded."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of a value.

    Attributes:
        axis: The axis along which they differ, counted from the first; None where one pair holds for all.
        low: Lower bounds, float64 of shape (size of the axis,), or (1,).
        high: Upper bounds.
    """

    axis: int | None
    low: np.ndarray
    high: np.ndarray

    @property
    def range(self) -> Range:
        """(low, high)."""
        return self.low, self.high

    def along(self, axis: int) -> Range:
        """The bounds along an axis: one pair that holds for all positions where they differ along another."""
        if self.axis in {axis, None}:
            return self.range
        return self.hull

    @property
    def hull(self) -> Range:
        """The bounds of all positions together, shape (1,)."""
        return self.low.min(keepdims=True), self.high.max(keepdims=True)

    def constants(self, axis: int, size: int) -> np.ndarray:
        """The number at each position of an axis, NaN where it depends on the input: float64, shape (size,)."""
        low, high = self.along(axis)
        return np.broadcast_to(np.where((low == high) & np.isfinite(low), low, np.nan), size)


Known = Mapping[ir.Value, Bounds]
Rule = Callable[[ir.Node, Known], Sequence[Bounds | None]]


def along(axis: int | None, found: Range) -> Bounds | None:
    """Bounds along an axis; None where they say nothing."""
    low, high = np.where(np.isnan(found[0]), -np.inf, found[0]), np.where(np.isnan(found[1]), np.inf, found[1])
    if np.isneginf(low).all() and np.isposinf(high).all():
        return None
    return Bounds(axis if low.size > 1 else None, low, high)


def with_zero(found: Range) -> Range:
    """Bounds of what is the value or zero."""
    return np.minimum(found[0], 0), np.maximum(found[1], 0)


def union(first: Range, second: Range) -> Range:
    """Bounds of what is one of two values."""
    return np.minimum(first[0], second[0]), np.maximum(first[1], second[1])


def epsilon_of(value: ir.Value | None) -> float:
    """The spacing of floats at 1 in the dtype of a value; that of bfloat16, the largest, where it is not known."""
    dtype = ir.DataType.BFLOAT16 if value is None or value.dtype not in FLOATS else value.dtype
    return float(ml_dtypes.finfo(dtype.numpy()).eps)  # type: ignore[no-untyped-call]


def value_bounds(model: ir.Model, rules: Mapping[tuple[str, str], Rule]) -> dict[ir.Value, Bounds]:
    """The bounds of the values of the main graph that have any.

    The time is linear in the model; most weights are not read (see `interval_sums.weighted_sums`).

    Args:
        model: The model, with the ranks of its values.
        rules: By domain ("" for ONNX's own) and operator; what has none is unbounded.
    """
    known: dict[ir.Value, Bounds] = {}
    with np.errstate(all="ignore"):
        for node in model.graph:
            domain = "" if node.domain in graph.STANDARD_DOMAINS else node.domain
            rule = rules.get((domain, node.op_type))
            if rule is None:
                continue
            outputs = zip(node.outputs, rule(node, known), strict=False)
            known |= {output: found for output, found in outputs if found is not None}
    return known


def unary(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """A function of the first input, element by element."""
    domain = "" if node.domain in graph.STANDARD_DOMAINS else node.domain
    shape = UNARY[domain, node.op_type](node)
    if shape is None or node.inputs[0] is None:
        return ()
    given = known.get(node.inputs[0])
    axis, numbers = (None, (np.array([-np.inf]), np.array([np.inf]))) if given is None else (given.axis, given.range)
    found = bounds_of(shape, numbers)
    if shape.is_rounded:
        found = outward(found, FEW_ULPS * epsilon_of(node.outputs[0]), 1.0)
    return (along(axis, found),)


def binary(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """A function of two numbers, with broadcasting: axes are aligned from the last."""
    computed = (value for value in node.inputs if graph.constant_tensor(value) is None)
    if node.op_type in _SUMS and any(value is None or value not in known for value in computed):
        return ()  # a cheap way out: stored operands are not read
    found = _aligned(node.inputs, known)
    if found is None:
        return ()
    axis, ranges = found
    result = functools.reduce(BINARY[node.op_type], ranges)
    if node.op_type not in {"Max", "Min"}:
        result = outward(result, FEW_ULPS * len(ranges) * epsilon_of(node.outputs[0]))
    return (along(axis, result),)


def selected(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Where: one of two values."""
    found = _aligned(node.inputs[1:], known, node.inputs[:1])
    return () if found is None else (along(found[0], union(*found[1])),)


def _aligned(
    values: Sequence[ir.Value | None], known: Known, others: Sequence[ir.Value | None] = ()
) -> tuple[int | None, list[Range]] | None:
    """The bounds of operands along one axis of what they are broadcast to.

    Args:
        values: The operands.
        known: Bounds of computed values.
        others: Further operands, which count for the rank only.
    """
    ranks = [graph.rank(value) for value in (*values, *others)]
    if any(rank is None for rank in ranks):
        return None
    rank = max(each for each in ranks if each is not None)
    axes = [axis for value in values if (axis := _own_axis(value, known, rank)) is not None]
    axis = axes[0] if axes else None
    ranges = []
    for value in values:
        own = None if axis is None else axis - rank + (graph.rank(value) or 0)
        ranges.append(operand(value, known, own))
    sizes = {len(low) for low, _ in ranges} - {1}
    return (axis, ranges) if len(sizes) <= 1 else None


def _own_axis(value: ir.Value | None, known: Known, rank: int) -> int | None:
    """The axis, of a value with `rank` axes that this one is broadcast to, along which this one's bounds differ."""
    given = None if value is None else known.get(value)
    axis = None if given is None else given.axis
    tensor = graph.constant_tensor(value) if given is None else None
    if tensor is not None and tensor.size > 1:
        wide = [at for at, size in enumerate(tensor.shape.numpy()) if size > 1]
        axis = wide[0] if len(wide) == 1 else None
    return None if axis is None else axis + rank - (graph.rank(value) or 0)


def operand(value: ir.Value | None, known: Known, axis: int | None) -> Range:
    """The bounds of a computed or stored value along one of its axes, or of all its positions together."""
    given = None if value is None else known.get(value)
    if given is not None:
        return given.hull if axis is None or axis < 0 else given.along(axis)
    tensor = graph.constant_tensor(value)
    if tensor is None or tensor.dtype not in FLOATS or not 0 < tensor.size <= _MOST_ELEMENTS:
        return np.array([-np.inf]), np.array([np.inf])
    array = tensor.numpy().astype(np.float64)
    if axis is None or not 0 <= axis < array.ndim or array.shape[axis] == 1:
        return array.min().reshape(1), array.max().reshape(1)
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return rows.min(1), rows.max(1)


ELEMENTWISE: Mapping[tuple[str, str], Rule] = {
    **dict.fromkeys(UNARY, unary),
    **{("", op_type): binary for op_type in BINARY},
    ("", "Where"): selected,
}
"""Rules for operators that compute each element by itself."""
