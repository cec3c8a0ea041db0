"""Fuse x · tanh(softplus(x)) into Mish."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.mish import find
from modelopt.patterns.rewriter import Rewrite, why_not_private


class FuseMish(RewritePass):
    """Fuse x · tanh(softplus(x)) into Mish.

    That product is Mish-18 (Misra 2019) by definition. onnxruntime's CPU provider expands the operator into the same
    three nodes, so there it changes only the size of the graph; providers with a kernel for it gain.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the product that ends the pattern."""
        found = find(node)
        if found is None:
            return match.NOT_HERE
        x, inner = found
        if reason := why_not_private(node, inner):
            return Mismatch(reason)
        if opset < 18:
            return Mismatch(f"opset {opset} has no Mish: upgrade-opset to 18 first (--opset 18)")
        return partial(graph.become, node, "Mish", [x])
