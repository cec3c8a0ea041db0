"""The decomposed hardswish, x · clip(x + 3, 0, 6) / 6, and the hardsigmoid inside it, as exporters write them.

The clip is Clip (its bounds are attributes below opset 11, then inputs) or Min and Relu. The division by 6, or the
product with 1/6, stands before or after the product with ``x``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.patterns.rewriter import why_not_needed_once


@dataclass(frozen=True)
class Hardswish:
    """A hardswish or a hardsigmoid in parts.

    Attributes:
        last: The division by 6.
        x: What it is a function of.
        inner: The other nodes, the first one last.
        with_product: True for hardswish.
    """

    last: ir.Node
    x: ir.Value
    inner: tuple[ir.Node, ...]
    with_product: bool


def find(last: ir.Node, opset: int) -> Hardswish | Mismatch:
    """The pattern that ends with `last`."""
    sixfold = _sixfold(last)
    if sixfold is None:
        return match.NOT_HERE
    product = match.producer(sixfold, "Mul")
    found = _clip_of_x_plus_3(sixfold, opset) if product is None else _product(product, opset)
    if found is None:
        return match.NOT_HERE
    x, nodes = found
    inner = tuple(nodes) if product is None else (product, *nodes)
    pattern = Hardswish(last, x, inner, with_product=product is not None)
    reason = _why_not(pattern, opset)
    return Mismatch(reason) if reason else pattern


def _sixfold(node: ir.Node) -> ir.Value | None:
    """``v`` when `node` is ``v / 6`` or ``v · 1/6``."""
    operands = match.split_constant(node)
    if operands is None:
        return None
    value, constant = operands
    if graph.is_standard(node, "Div") and node.inputs[0] is value and _is(constant, 6):
        return value
    return value if graph.is_standard(node, "Mul") and _is(constant, 1 / 6) else None


def _product(node: ir.Node, opset: int) -> tuple[ir.Value, list[ir.Node]] | None:
    """``x`` and the nodes of the clip, when `node` is ``x · clip(x + 3, 0, 6)`` in either order."""
    left, right = node.inputs
    for x, clip in ((left, right), (right, left)):
        found = _clip_of_x_plus_3(clip, opset)
        if found is not None and found[0] is x:
            return found
    return None


def _clip_of_x_plus_3(value: ir.Value | None, opset: int) -> tuple[ir.Value, list[ir.Node]] | None:
    """``x`` and the nodes inside, outermost first, when `value` is ``clip(x + 3, 0, 6)``."""
    clipped = _clip_0_6(value, opset)
    if clipped is None:
        return None
    inner, nodes = clipped
    add = match.producer(inner, "Add")
    operands = None if add is None else match.split_constant(add)
    if add is None or operands is None or not _is(operands[1], 3):
        return None
    return operands[0], [*nodes, add]


def _clip_0_6(value: ir.Value | None, opset: int) -> tuple[ir.Value | None, list[ir.Node]] | None:
    """``v`` and the nodes inside, when `value` is ``Clip(v, 0, 6)`` or ``Min(Relu(v), 6)``."""
    clip = match.producer(value, "Clip")
    if clip is not None:
        return (clip.inputs[0], [clip]) if _bounds(clip, opset) == (0, 6) else None
    minimum = match.producer(value, "Min")
    operands = None if minimum is None else match.split_constant(minimum)
    if minimum is None or operands is None or not _is(operands[1], 6):
        return None
    relu = match.producer(operands[0], "Relu")
    return None if relu is None else (relu.inputs[0], [minimum, relu])


def _bounds(clip: ir.Node, opset: int) -> tuple[float | None, float | None]:
    if opset < 11:
        return graph.attribute_float(clip, "min", -math.inf), graph.attribute_float(clip, "max", math.inf)
    return graph.scalar(graph.input_at(clip, 1)), graph.scalar(graph.input_at(clip, 2))


def _is(constant: ir.Value, number: float) -> bool:
    """Whether `constant` is one number, `number` as its type rounds it."""
    tensor = graph.constant_tensor(constant)
    if tensor is None or tensor.size != 1 or tensor.dtype not in FLOAT16_FLOAT32:
        return False
    array = tensor.numpy()
    return bool(abs(float(array.item()) - number) <= number * np.finfo(array.dtype).eps)


def _why_not(pattern: Hardswish, opset: int) -> str | None:
    if opset < 6:
        return f"opset {opset} has no HardSigmoid with these attributes"
    for node in pattern.inner:
        if reason := why_not_needed_once(node, pattern.last):
            return reason
    tensors = [graph.constant_tensor(value) for node in (pattern.last, *pattern.inner) for value in node.inputs]
    widest = max(len(tensor.shape) for tensor in tensors if tensor is not None)
    known = graph.rank(pattern.x)
    if widest > (1 if known is None else known):
        return f"a constant of rank {widest} may raise the rank of the output"
    return None
