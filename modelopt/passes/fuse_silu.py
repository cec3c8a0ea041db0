"""Fuse x · sigmoid(x) into onnxruntime's QuickGelu."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass
from modelopt.patterns.rewriter import CONTRIB, Rewrite, collapse, rewrite_nodes, why_not_private
from modelopt.patterns.silu import find


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
