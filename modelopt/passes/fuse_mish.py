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


def _rule(node: ir.Node, opset: int) -> Rewrite | Mismatch:
    if not graph.is_standard(node, "Mul"):
        return match.NOT_HERE
    for x, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        tanh = match.producer(other, "Tanh")
        softplus = None if tanh is None else match.producer(tanh.inputs[0], "Softplus")
        if x is None or tanh is None or softplus is None or softplus.inputs[0] is not x:
            continue
        if reason := why_not_private(node, (tanh, softplus)):
            return Mismatch(reason)
        if opset < 18:
            return Mismatch(f"opset {opset} has no Mish: upgrade-opset to 18 first (--opset 18)")
        return partial(collapse, node, (tanh, softplus), "Mish", [x])
    return match.NOT_HERE
