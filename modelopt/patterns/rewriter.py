"""The loop that the fusion passes share: a rule looks at one node and either refuses with a reason or rewrites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Changes, Skip
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS

Rewrite = Callable[[], None]
"""The edit that a rule returns where its pattern holds; the loop calls it at once."""

Rule = Callable[[ir.Node, int], Rewrite | Mismatch]
"""(node, opset) → the edit or why not. It changes nothing itself."""


def rewrite_nodes(model: ir.Model, rule: Rule) -> Changes:
    """Apply `rule` to every node in every scope until nothing matches, so that a second run finds nothing to do.

    Each rewrite removes a node, or an edge between two nodes of its pattern, so the walks come to an end. After a
    rewrite, the nodes and constants that nothing reads any more are removed. The refusals are those of the last walk,
    which sees the result.
    """
    rewrites = 0
    while True:
        with np.errstate(all="ignore"):  # rules check the constants that they compute for NaN and infinity
            walk = _walk(model, rule)
        rewrites += walk.rewrites
        if not walk.rewrites:
            if rewrites:
                graph.import_domain(model, graph.CONTRIB_DOMAIN, 1)
            return Changes(rewrites, walk.skipped)


def _walk(model: ir.Model, rule: Rule) -> Changes:
    rewrites, skipped = 0, []
    for node, opset in graph.nodes_with_opset(model):
        found = rule(node, opset)
        if isinstance(found, Mismatch):
            if found.near:
                skipped.append(Skip(graph.label(node), found.reason))
            continue
        read = list(node.inputs)
        found()
        graph.remove_unread([*node.outputs, *read])
        rewrites += 1
    return Changes(rewrites, tuple(skipped))


# Patterns of several nodes


def why_not_private(last: ir.Node, inner: Iterable[ir.Node]) -> str | None:
    """Why the nodes of a pattern that ends in `last` cannot be removed: others use one of them. None where none do."""
    inside = {last, *inner}
    for node in inside - {last}:
        if node.graph is not last.graph:
            return f"{graph.label(node)} is in an outer scope"
        for value in node.outputs:
            outside = {use.node for use in value.uses()} - inside
            if value.is_graph_output() or outside:
                reason = "its output is also a graph output" if value.is_graph_output() else "other nodes use it too"
                return f"{graph.label(node)} is needed as it is: {reason}"
    return None


def why_not_needed_once(node: ir.Node, tail: ir.Node) -> str | None:
    """Why `node` cannot be absorbed into `tail`: it is in another scope, or other nodes use it too; else None."""
    if node.graph is not tail.graph:
        return f"{graph.label(node)} is in an outer scope"
    if graph.sole_consumer(node.outputs[0]) is None:
        return f"{graph.label(node)} is needed as it is: {graph.why_not_sole(node.outputs[0])}"
    return None


def collapse(
    last: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Iterable[ir.Attr] = (),
    *,
    domain: str = "",
) -> None:
    """Make `last`, the last node of a pattern, the operator that stands for all of it, and remove the others."""
    read = list(last.inputs)
    graph.become(last, op_type, inputs, attributes, domain=domain)
    graph.remove_unread(read)


def number(value: ir.Value | None) -> float | None:
    """The number behind a constant that broadcasts to anything without raising its rank: shape () or (1,)."""
    tensor = graph.constant_tensor(value)
    if tensor is None or len(tensor.shape) > 1 or tensor.dtype not in IEEE_FLOATS:
        return None
    found = graph.scalar(value)
    return None if found is None else float(found)
