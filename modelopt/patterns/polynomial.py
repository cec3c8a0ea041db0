"""Reads arithmetic by constants as a polynomial, so that one comparison covers every way in which it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.patterns.rewriter import number

_DEEPEST = 7

Coefficients = dict[int, float]
"""Power of x → its factor; ``{1: 0.5}`` is x / 2."""


@dataclass(frozen=True)
class Polynomial:
    """A value as a polynomial in another, and the nodes that compute it, the last one first."""

    coefficients: Coefficients
    nodes: tuple[ir.Node, ...] = ()


def read(value: ir.Value | None, symbols: Mapping[ir.Value, Coefficients], depth: int = _DEEPEST) -> Polynomial | None:
    """`value` as a polynomial in what `symbols` are polynomials in; None when it is something else.

    Understands Add, Sub, Mul, Div by a constant, and Pow by 2 or 3, with constants of shape () or (1,).
    """
    if value is None:
        return None
    if value in symbols:
        return Polynomial(symbols[value])
    constant = number(value)
    if constant is not None:
        return Polynomial({0: constant})
    node = value.producer()
    if node is None or depth == 0 or len(node.inputs) != 2 or node.domain not in graph.STANDARD_DOMAINS:
        return None
    if node.op_type not in {"Add", "Sub", "Mul", "Div", "Pow"}:
        return None
    left, right = (read(operand, symbols, depth - 1) for operand in node.inputs)
    if left is None or right is None:
        return None
    combined = _combine(node.op_type, left.coefficients, right.coefficients)
    return None if combined is None else Polynomial(combined, (node, *left.nodes, *right.nodes))


def _combine(op_type: str, left: Coefficients, right: Coefficients) -> Coefficients | None:
    if op_type in {"Add", "Sub"}:
        sign = 1 if op_type == "Add" else -1
        return {power: left.get(power, 0) + sign * right.get(power, 0) for power in {*left, *right}}
    if op_type == "Mul":
        return _product(left, right)
    constant = right.get(0, 0.0)
    if set(right) != {0} or constant == 0:
        return None
    if op_type == "Div":
        return {power: factor / constant for power, factor in left.items()}
    if constant not in {2, 3}:
        return None
    power = left
    for _ in range(int(constant) - 1):
        power = _product(power, left)
    return power


def _product(left: Coefficients, right: Coefficients) -> Coefficients:
    product: Coefficients = {}
    for i, a in left.items():
        for j, b in right.items():
            product[i + j] = product.get(i + j, 0) + a * b
    return product


def close(found: Coefficients, expected: Coefficients, dtype: ir.DataType | None) -> bool:
    """Whether two polynomials are the same up to how constants of `dtype` are rounded, and to five written digits."""
    rounding = float(np.finfo(np.float16).eps) if dtype == ir.DataType.FLOAT16 else 1e-5
    return all(
        abs(found.get(power, 0) - expected.get(power, 0)) <= 2 * rounding * abs(expected.get(power, 0))
        for power in {*found, *expected}
    )
