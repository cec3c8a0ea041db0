"""Inlines an If whose condition is a constant, and removes a Loop that runs no iteration."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph


def inline_constant_ifs(model: ir.Model) -> tuple[int, dict[str, str]]:
    """Put the branch that is taken in the place of each If whose condition is constant.

    Values of the branch get new names: the two branches, and other bodies, may use the same ones.

    Returns:
        The number of nodes that were inlined; by label, why each other one was not.
    """
    count, refused = 0, dict[str, str]()
    names: graph.NameSource | None = None
    for scope, _, in_function in graph.scopes(model):
        for node in list(scope):
            branch = _taken(node)
            if branch is None:
                continue
            reason = _why_not_inline(node, branch, in_function=in_function)
            if reason is not None:
                refused[graph.label(node)] = reason
                continue
            names = names or graph.NameSource(model)
            _inline(node, branch, names)
            count += 1
    return count, refused


def _taken(node: ir.Node) -> ir.Graph | None:
    """The branch of an If with a constant condition that is taken, else None."""
    if not graph.is_standard(node, "If") or not node.inputs or graph.scalar(node.inputs[0]) is None:
        return None
    name = "then_branch" if graph.scalar(node.inputs[0]) else "else_branch"
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else attribute.as_graph()


def _why_not_inline(node: ir.Node, branch: ir.Graph, *, in_function: bool) -> str | None:
    if len(branch.outputs) != len(node.outputs):
        return "its branch does not fit its outputs"
    if in_function and branch.initializers:
        return "its branch holds initializers, and a function cannot"
    for old, new in zip(node.outputs, branch.outputs, strict=True):
        producer = new.producer()
        if old.is_graph_output() and (producer is None or producer.graph is not branch):
            return "its branch hands a constant or an outer value to a graph output"
    if len(set(branch.outputs)) < len(branch.outputs):
        return "its branch gives one value twice"
    return None


def _inline(node: ir.Node, branch: ir.Graph, names: graph.NameSource) -> None:
    scope = graph.scope_of(node)
    results = list(branch.outputs)
    branch.outputs.clear()
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        value.name = names(name)
        scope.register_initializer(value)
    for inner in list(branch):
        for value in inner.outputs:
            value.name = names(value.name) if value.name else value.name
        branch.remove(inner)
        scope.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        graph.replace_value(old, new)
    graph.remove_with_constants(node)


def remove_idle_loops(model: ir.Model) -> tuple[int, dict[str, str]]:
    """Remove each Loop that runs no iteration: its trip count is 0 or its first condition is false.

    The values that it starts with take the place of its outputs.

    Returns:
        The number of loops that were removed; by label, why each other one was not.
    """
    count, refused = 0, dict[str, str]()
    for node in graph.all_nodes(model):
        if not _is_idle(node):
            continue
        reason = _why_not_remove(node)
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
    """The values that the loop starts with, which are its first outputs when it runs no iteration."""
    return tuple(node.inputs[2:])


def _why_not_remove(node: ir.Node) -> str | None:
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
