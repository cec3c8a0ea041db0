"""Removes a Loop that never turns."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph


def remove_idle_loops(model: ir.Model) -> tuple[int, dict[str, str]]:
    """Hand on what each Loop starts with where its trip count is 0 or its first condition is false.

    Returns:
        How many went, and for each that did not its label and the reason.
    """
    count, refused = 0, dict[str, str]()
    for node in graph.all_nodes(model):
        if not _is_idle(node):
            continue
        reason = _why_not(node)
        if reason is not None:
            refused[graph.label(node)] = reason
            continue
        for old, new in zip(node.outputs, _carried(node), strict=False):  # scan outputs are not used
            if new is not None:
                graph.replace_value(old, new)
        graph.remove_with_constants(node)
        count += 1
    return count, refused


def _is_idle(node: ir.Node) -> bool:
    if not graph.is_standard(node, "Loop") or len(node.inputs) < 2:
        return False
    trips, condition = graph.scalar(node.inputs[0]), graph.scalar(node.inputs[1])
    return (trips is not None and trips <= 0) or (condition is not None and not condition)


def _carried(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The values that the loop starts with, which are its first outputs when it never turns."""
    return tuple(node.inputs[2:])


def _why_not(node: ir.Node) -> str | None:
    start = _carried(node)
    if len(start) > len(node.outputs) or None in start:
        return "its inputs do not fit its outputs"
    if any(out.uses() or out.is_graph_output() for out in node.outputs[len(start) :]):
        return "it never turns, but the empty tensors that it gathers are used"
    kept = [(old, new) for old, new in zip(node.outputs, start, strict=False) if new is not None]
    if sum(old.is_graph_output() for old, _ in kept) > 1 and len(set(start)) < len(start):
        return "it never turns, but would give one value under two names"
    reasons = (graph.can_replace(old, new) for old, new in kept)
    return next((f"it never turns, but {reason}" for reason in reasons if reason is not None), None)
