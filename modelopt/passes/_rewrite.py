"""The loop that the fusion passes share: a rule looks at one node and either refuses with a reason or rewrites."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from modelopt import graph
from modelopt.match import Mismatch
from modelopt.passes.base import Changes, Skip

Rewrite = Callable[[], None]
"""What a rule that matched returns: called at once, it edits the model."""

Rule = Callable[[ir.Node, int], Rewrite | Mismatch]
"""(node, opset) → the edit or why not. It changes nothing itself."""


def rewrite_nodes(model: ir.Model, rule: Rule) -> Changes:
    """Apply `rule` to every node in every scope until nothing matches, so that a second run finds nothing to do.

    Each rule removes a node or an edge between two of its pattern's nodes, which bounds the walks. The refusals are
    those of the last walk: what held then holds for the result.
    """
    rewrites = 0
    while True:
        walk = _walk(model, rule)
        rewrites += walk.rewrites
        if not walk.rewrites:
            return Changes(rewrites, walk.skipped)


def _walk(model: ir.Model, rule: Rule) -> Changes:
    rewrites, skipped = 0, []
    for node, opset in graph.nodes_with_opset(model):
        found = rule(node, opset)
        if isinstance(found, Mismatch):
            if found.near:
                skipped.append(Skip(graph.label(node), found.reason))
            continue
        found()
        rewrites += 1
    return Changes(rewrites, tuple(skipped))
