"""Finds Gelu in every way in which it is written: x · (1 + erf(x/√2)) / 2, and the approximation by tanh."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.patterns import polynomial
from modelopt.patterns.rewriter import number

_SQRT_2_BY_PI = math.sqrt(2 / math.pi)
_ARGUMENTS = {
    "Erf": {1: 1 / math.sqrt(2)},
    "Tanh": {1: _SQRT_2_BY_PI, 3: 0.044715 * _SQRT_2_BY_PI},
}


@dataclass(frozen=True)
class Gelu:
    """A Gelu in parts.

    Attributes:
        last: The node whose output it is.
        x: What it is a function of.
        inner: The other nodes.
        approximate: ``none`` or ``tanh``, as the operator Gelu calls it.
    """

    last: ir.Node
    x: ir.Value
    inner: tuple[ir.Node, ...]
    approximate: str


def find(last: ir.Node) -> Gelu | None:
    """The Gelu that ends with `last`.

    The product must be ``x / 2`` times a gate ``1 + erf(…)`` or ``1 + tanh(…)``, in any order and grouping; the
    argument must be the right polynomial in the same ``x``.
    """
    if not graph.is_standard(last, "Mul") and not graph.is_standard(last, "Div"):
        return None
    factors = list(_factors(last, 3))
    for gate, add, curve in (found for value in factors if (found := _gate(value))):
        for x in factors:
            product = polynomial.read(last.outputs[0], {x: {1: 1.0}, gate: {0: 1.0}})
            if x is gate or product is None or not polynomial.close(product.coefficients, {1: 0.5}, x.dtype):
                continue
            argument = polynomial.read(curve.inputs[0], {x: {1: 1.0}})
            if argument and polynomial.close(argument.coefficients, _ARGUMENTS[curve.op_type], x.dtype):
                inner = (*product.nodes[1:], add, curve, *argument.nodes)
                return Gelu(last, x, inner, "none" if curve.op_type == "Erf" else "tanh")
    return None


def _factors(node: ir.Node, depth: int) -> Iterator[ir.Value]:
    """The variable operands of a product, and of the products that these are."""
    for value in node.inputs:
        if value is None or number(value) is not None:
            continue
        yield value
        inner = match.producer(value, "Mul") or match.producer(value, "Div")
        if inner is not None and depth:
            yield from _factors(inner, depth - 1)


def _gate(value: ir.Value) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """The value, the addition and the curve, when `value` is ``1 + erf(…)`` or ``1 + tanh(…)``."""
    add = match.producer(value, "Add")
    operands = None if add is None else match.split_constant(add)
    if add is None or operands is None or number(operands[1]) != 1:
        return None
    curve = match.producer(operands[0], "Erf") or match.producer(operands[0], "Tanh")
    return None if curve is None else (value, add, curve)
