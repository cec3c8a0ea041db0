"""Fuse a decomposed Gelu into the operator Gelu."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch, NeedsOpset
from modelopt.passes.base import RewritePass
from modelopt.patterns.gelu import Gelu, find
from modelopt.patterns.rewriter import Rewrite, why_not_private

FIRST_OPSET = 20


class FuseGelu(RewritePass):
    """Fuse a decomposed Gelu into the operator Gelu.

    ``x · (1 + erf(x / √2)) / 2`` (Hendrycks, Gimpel 2016) is Gelu-20, and with ``tanh(√(2/π) · (x + 0.044715 · x³))``
    in place of ``erf`` it is Gelu-20 with ``approximate = "tanh"``. Factors may stand in any order and grouping.

    onnxruntime finds the form with erf by itself, so that one is only shorter; it misses that with tanh, for which the
    operator is 2.4 times as fast. Below opset 20 there is no such operator; `fuse-bias-gelu` has one for onnxruntime.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` ends the Gelu."""
        gelu = find(node)
        if gelu is None:
            return match.NOT_HERE
        if reason := why_not_private(gelu.last, gelu.inner):
            return Mismatch(reason)
        if opset < FIRST_OPSET:
            reason = f"opset {opset} has no Gelu: --opset 20 upgrades, or fuse-bias-gelu for onnxruntime"
            return NeedsOpset(reason, opset=FIRST_OPSET)
        return partial(_rewrite, gelu)


def _rewrite(gelu: Gelu) -> None:
    attributes = [] if gelu.approximate == "none" else [ir.AttrString("approximate", gelu.approximate)]
    graph.become(gelu.last, "Gelu", [gelu.x], attributes)
