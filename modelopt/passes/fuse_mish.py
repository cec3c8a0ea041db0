"""Fuse x · tanh(softplus(x)) into Mish."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._rewrite import Rewrite, collapse, rewrite_nodes, why_not_private
from modelopt.passes.base import Changes, Context, Effect, Pass


class FuseMish(Pass):
    """Fuse x · tanh(softplus(x)) into Mish.

    That product is Mish-18 (Misra 2019) by definition. onnxruntime's CPU provider expands the operator into the same
    three nodes, so there it changes only the size of the graph; providers with a kernel for it gain.
    """

    name: ClassVar[str] = "fuse-mish"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fuse every one whose inner values nothing else uses."""
        return rewrite_nodes(model, _rule)


def find(last: ir.Node) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """``x`` and the nodes but for the product, when `last` is ``x · tanh(softplus(x))``."""
    if not graph.is_standard(last, "Mul"):
        return None
    for x, other in (tuple(last.inputs), tuple(reversed(last.inputs))):
        tanh = match.producer(other, "Tanh")
        softplus = None if tanh is None else match.producer(tanh.inputs[0], "Softplus")
        if x is not None and tanh is not None and softplus is not None and softplus.inputs[0] is x:
            return x, (tanh, softplus)
    return None


def _rule(node: ir.Node, opset: int) -> Rewrite | Mismatch:
    found = find(node)
    if found is None:
        return match.NOT_HERE
    x, inner = found
    if reason := why_not_private(node, inner):
        return Mismatch(reason)
    if opset < 18:
        return Mismatch(f"opset {opset} has no Mish: upgrade-opset to 18 first (--opset 18)")
    return partial(collapse, node, inner, "Mish", [x])
