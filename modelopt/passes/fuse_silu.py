"""Fuse x · sigmoid(x) into onnxruntime's QuickGelu."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._rewrite import CONTRIB, Rewrite, collapse, number, rewrite_nodes, why_not_private
from modelopt.passes.base import Changes, Context, Effect, Pass


class FuseSilu(Pass):
    """Fuse x · sigmoid(x) into QuickGelu (onnxruntime only).

    ``x · sigmoid(alpha · x)`` is QuickGelu(x, alpha) of onnxruntime's ContribOperators.md; ``alpha = 1`` is SiLU, also
    called Swish (Elfwing et al. 2017). onnxruntime's CPU provider does the same at load, so this is for files that are
    read by other builds. Swish-24 of the standard is not used: onnxruntime expands it, at 0.6 of the speed.
    """

    name: ClassVar[str] = "fuse-silu"
    effect: ClassVar[Effect] = Effect.EXACT
    contrib: ClassVar[bool] = True

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fuse every one whose inner values nothing else uses."""
        return rewrite_nodes(model, _rule)


@dataclass(frozen=True)
class Silu:
    """``x · sigmoid(alpha · x)`` in parts.

    Attributes:
        x: What it is a function of.
        alpha: The factor under the curve.
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


def _rule(node: ir.Node, _opset: int) -> Rewrite | Mismatch:
    found = find(node)
    if found is None:
        return match.NOT_HERE
    if reason := why_not_private(node, found.inner):
        return Mismatch(reason)
    if found.x.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
        return Mismatch("onnxruntime has QuickGelu for float32 and float16, and the type is another or not known")
    attributes = [ir.AttrFloat32("alpha", found.alpha)]
    return partial(collapse, node, found.inner, "QuickGelu", [found.x], attributes, domain=CONTRIB)


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
