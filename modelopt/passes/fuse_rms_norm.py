"""Fuse a decomposed root-mean-square normalization into RMSNormalization."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns import normalization
from modelopt.patterns.rewriter import Rewrite, collapse, why_not_private


class FuseRmsNorm(RewritePass):
    """Fuse a decomposed root-mean-square normalization into RMSNormalization.

    ``x / √(mean(x²) + ε) · scale`` over the last axis (Zhang, Sennrich 2019) is RMSNormalization-23 with ``axis = -1``;
    a missing scale is 1. Below opset 23 only onnxruntime has an operator for it, in a place where the checker does
    not accept it, and onnxruntime puts it there by itself at load: such models are left alone.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the division by the root."""
        core = normalization.find(node)
        if core is None or core.centered:
            return match.NOT_HERE
        if core.normalized_axes() != (-1,):
            return Mismatch("it does not average over the last axis")
        size = graph.known_size(core.x, -1)
        if size is None:
            return Mismatch("the size of the last axis is not known")
        rank = graph.rank(core.x) or 1
        found = normalization.affine(core, frozenset((*(1,) * leading, size) for leading in range(rank)), ("Mul",))
        if reason := why_not_private(found.last, found.inner):
            return Mismatch(reason)
        if opset < 23:
            return Mismatch(f"opset {opset} has no RMSNormalization: upgrade-opset to 23 first (--opset 23)")
        return partial(_rewrite, names, core, found, size)


def _rewrite(names: graph.NameSource, core: normalization.Core, found: normalization.ScaleAndShift, size: int) -> None:
    scale, _ = normalization.weights(core, found, size, names, with_bias=False)
    attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", normalization.epsilon_of(core))]
    collapse(found.last, "RMSNormalization", [core.x, scale], attributes)
