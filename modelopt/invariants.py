"""What a valid model is, readable in one sitting.

`check` is pure Python: it never calls onnx's checker, which crashes on hostile files. It runs when a model is loaded
(a violation is then the file's fault) and after every pass (then it is ours).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph

MAX_FUNCTION_NODES = 1_000_000
"""Nodes that the model may have once every function call is inlined; nested calls grow exponentially."""


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        where: The node, value or graph.
        rule: What should hold and does not.
    """

    where: str
    rule: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}"


def check(model: ir.Model) -> list[Violation]:
    """All violations, outer scopes first; an empty list for a valid model."""
    found = [*_opsets(model), *_functions(model)]
    found += _scope(model.graph, visible=frozenset())
    for function in model.functions.values():
        found += _scope(function, visible=frozenset())
    return found


def _opsets(model: ir.Model) -> Iterator[Violation]:
    if not model.graph.outputs:
        yield Violation(f"graph '{model.graph.name}'", "has no outputs")
    imported = {"" if domain == "ai.onnx" else domain for domain in model.opset_imports}
    called = {key[0] for key in model.functions}
    for node in model.graph:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in imported and domain not in called:
            yield Violation(graph.label(node), f"its domain '{node.domain}' is not imported")


def _scope(scope: ir.Graph | ir.Function, visible: frozenset[ir.Value]) -> Iterator[Violation]:
    """One scope and its bodies: each value is made once, before it is used, and visible where it is used."""
    defined: set[ir.Value] = set()
    names: set[str] = set()
    where = f"graph '{scope.name}'"
    for value in scope.inputs:
        yield from _define(value, where, defined, names)
    if isinstance(scope, ir.Graph):
        yield from _initializers(scope, where, defined, names)
    for node in scope:
        for used in node.inputs:
            if used is not None and used not in defined and used not in visible:
                yield Violation(graph.label(node), f"uses '{used.name}' before it exists")
        for body in graph.bodies(node):
            yield from _scope(body, visible | defined)
        for value in node.outputs:
            if value.name:
                yield from _define(value, graph.label(node), defined, names)
    for value in scope.outputs:
        if value not in defined and value not in visible:
            yield Violation(where, f"the output '{value.name}' is made by no node")


def _initializers(scope: ir.Graph, where: str, defined: set[ir.Value], names: set[str]) -> Iterator[Violation]:
    for value in scope.initializers.values():
        if value.const_value is None:
            yield Violation(where, f"the initializer '{value.name}' has no data")
        if value not in defined:  # an initializer may also be an input
            yield from _define(value, where, defined, names)


def _define(value: ir.Value, where: str, defined: set[ir.Value], names: set[str]) -> Iterator[Violation]:
    if not value.name:
        yield Violation(where, "a value has no name")
    elif value.name in names:
        yield Violation(where, f"the name '{value.name}' is given twice")
    names.add(value.name or "")
    defined.add(value)


def _functions(model: ir.Model) -> Iterator[Violation]:
    """Functions may call each other, not themselves, and must not explode when they are inlined."""
    sizes: dict[tuple[str, str, str], int] = {}
    active: set[tuple[str, str, str]] = set()

    def size(key: tuple[str, str, str]) -> int | None:
        if key in active:
            return None
        if key not in sizes:
            active.add(key)
            total = 0
            for node in model.functions[key].all_nodes():
                callee = node.op_identifier()
                inner = size(callee) if callee in model.functions else 1
                if inner is None:
                    return None
                total += inner
            active.discard(key)
            sizes[key] = total
        return sizes[key]

    for key in model.functions:
        nodes = size(key)
        if nodes is None:
            yield Violation(f"function '{key[1]}'", "calls itself")
            return
        if nodes > MAX_FUNCTION_NODES:
            yield Violation(f"function '{key[1]}'", f"is more than {MAX_FUNCTION_NODES:,} nodes once it is inlined")
            return
