"""Fuse x · sigmoid(x) into onnxruntime's QuickGelu."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite, why_not_private
from modelopt.patterns.silu import find


class FuseSilu(RewritePass):
    """Fuse x · sigmoid(x) into QuickGelu (onnxruntime only).

    ``x · sigmoid(alpha · x)`` is QuickGelu(x, alpha) of onnxruntime's ContribOperators.md; ``alpha = 1`` is SiLU, also
    called Swish (Elfwing et al. 2017). onnxruntime's CPU provider does the same at load, so this is for files that are
    read by other builds. Swish-24 of the standard is not used: onnxruntime expands it, at 0.6 of the speed.
    """

    contrib: ClassVar[bool] = True

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the product that ends the pattern."""
        found = find(node)
        if found is None:
            return match.NOT_HERE
        if reason := why_not_private(node, found.inner):
            return Mismatch(reason)
        if found.x.dtype not in FLOAT16_FLOAT32:
            return Mismatch("onnxruntime has QuickGelu for float32 and float16, and the type is another or not known")
        attributes = [ir.AttrFloat32("alpha", found.alpha)]
        return partial(graph.become, node, "QuickGelu", [found.x], attributes, domain=graph.CONTRIB_DOMAIN)
