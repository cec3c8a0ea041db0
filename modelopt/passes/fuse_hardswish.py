"""Rewrite the decomposed hardswish and hardsigmoid as HardSigmoid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._rewrite import Rewrite, rewrite_nodes
from modelopt.passes.base import Changes, Context, Effect, Pass

_ALPHA = float(np.float32(1 / 6))
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


class FuseHardswish(Pass):
    """Rewrite the decomposed hardswish, x · clip(x + 3, 0, 6) / 6, as x · HardSigmoid(x).

    HardSigmoid-6 is ``max(0, min(1, alpha · x + beta))``; with ``alpha = 1/6`` and ``beta = 0.5`` that is
    ``clip(x + 3, 0, 6) / 6``. Exporters write the clip as Clip (bounds are attributes below opset 11, then inputs) or
    as Min and Relu, and divide by 6 (or multiply by 1/6) before or after the product with ``x``:

    - ``clip(x + 3) / 6`` becomes ``HardSigmoid(x)``;
    - ``(x · clip(x + 3)) / 6`` becomes ``x · HardSigmoid(x)``.

    The operator HardSwish (opset 14) is not used: onnxruntime expands it to this very pair, so it is no faster, and
    the pair works from opset 6. Exact up to the rounding of ``(x + 3) / 6`` against ``x / 6 + 0.5``.
    """

    name: ClassVar[str] = "fuse-hardswish"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Rewrite every division by 6 that ends one of the two patterns."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model)))


@dataclass(frozen=True)
class Pattern:
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


def find(last: ir.Node, opset: int) -> Pattern | Mismatch:
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
    pattern = Pattern(last, x, inner, with_product=product is not None)
    reason = _why_not(pattern, opset)
    return Mismatch(reason) if reason else pattern


def _rule(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    pattern = find(node, opset)
    return pattern if isinstance(pattern, Mismatch) else partial(_rewrite, names, pattern)


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
    low, high = (graph.scalar(clip.inputs[i]) if len(clip.inputs) > i else None for i in (1, 2))
    return low, high


def _is(constant: ir.Value, number: float) -> bool:
    """Whether `constant` is one number, `number` as its type rounds it."""
    tensor = graph.constant_tensor(constant)
    if tensor is None or tensor.size != 1 or tensor.dtype not in _FLOATS:
        return False
    array = tensor.numpy()
    return bool(abs(float(array.item()) - number) <= number * np.finfo(array.dtype).eps)


def _why_not(pattern: Pattern, opset: int) -> str | None:
    if opset < 6:
        return f"opset {opset} has no HardSigmoid with these attributes"
    for node in pattern.inner:
        if node.graph is not pattern.last.graph:
            return f"{graph.label(node)} is in an outer scope"
        if graph.sole_consumer(node.outputs[0]) is None:
            return f"{graph.label(node)} is needed as it is: {graph.why_not_sole(node.outputs[0])}"
    tensors = [graph.constant_tensor(value) for node in (pattern.last, *pattern.inner) for value in node.inputs]
    widest = max(len(tensor.shape) for tensor in tensors if tensor is not None)
    known = graph.rank(pattern.x)
    if widest > (1 if known is None else known):
        return f"a constant of rank {widest} may raise the rank of the output"
    return None


def _rewrite(names: graph.NameSource, pattern: Pattern) -> None:
    last, x = pattern.last, pattern.x
    old_inputs = list(last.inputs)
    attributes = (ir.AttrFloat32("alpha", _ALPHA), ir.AttrFloat32("beta", 0.5))
    if pattern.with_product:
        name = names(f"{x.name}_hardsigmoid")
        gate = ir.Value(name=name, shape=x.shape, type=x.type)
        last.prepend(ir.Node("", "HardSigmoid", [x], attributes, outputs=[gate], name=name))
        graph.become(last, "Mul", [x, gate])
    else:
        graph.become(last, "HardSigmoid", [x], attributes)
    graph.drop_unused_constants(old_inputs)
    for node in pattern.inner:
        graph.remove_with_constants(node)
