"""Fuse x · tanh(softplus(x)) into Mish."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass
from modelopt.patterns.mish import find
from modelopt.patterns.rewriter import Rewrite, collapse, rewrite_nodes, why_not_private


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
    found = find(node)
    if found is None:
        return match.NOT_HERE
    x, inner = found
    if reason := why_not_private(node, inner):
        return Mismatch(reason)
    if opset < 18:
        return Mismatch(f"opset {opset} has no Mish: upgrade-opset to 18 first (--opset 18)")
    return partial(collapse, node, inner, "Mish", [x])
