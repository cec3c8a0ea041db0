"""SiLU, also called Swish (Elfwing et al. 2017), in parts: x · sigmoid(alpha · x)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.patterns.rewriter import number


@dataclass(frozen=True)
class Silu:
    """``x · sigmoid(alpha · x)`` in parts.

    Attributes:
        x: What it is a function of.
        alpha: The factor of `x` inside the sigmoid.
        inner: The nodes but for the product.
    """

    x: ir.Value
    alpha: float
    inner: tuple[ir.Node, ...]


def find(last: ir.Node) -> Silu | None:
    """The pattern that ends with `last`."""
    if not graph.is_standard(last, "Mul"):
        return None
    for x, other in (tuple(last.inputs), tuple(reversed(last.inputs))):
        sigmoid = match.producer(other, "Sigmoid")
        if x is not None and sigmoid is not None and (found := _multiple(sigmoid.inputs[0], x)) is not None:
            return Silu(x, found[0], (sigmoid, *found[1]))
    return None


def _multiple(value: ir.Value | None, x: ir.Value) -> tuple[float, tuple[ir.Node, ...]] | None:
    """``alpha`` and the nodes, when `value` is ``alpha · x``."""
    if value is x:
        return 1.0, ()
    product = match.producer(value, "Mul")
    operands = None if product is None else match.split_constant(product)
    if product is None or operands is None or operands[0] is not x:
        return None
    alpha = number(operands[1])
    return None if alpha is None else (alpha, (product,))
