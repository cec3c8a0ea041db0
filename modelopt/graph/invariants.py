"""The rules that a valid model follows.

`check` is pure Python: it never calls onnx's checker, which crashes on hostile files. It runs when a model is loaded
(a violation is then the file's fault) and after every pass (then it is ours).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import VerificationFailed
from modelopt.core.signature import Dim, Signature, is_free, symbol_of
from modelopt.graph import consistency, schemas

MAX_FUNCTION_NODES = 1_000_000
"""Nodes that the model may have once every function call is inlined; nested calls grow exponentially."""

MAX_FUNCTION_DEPTH = 100
"""How deep functions may call each other."""


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
    found = [*_references(model), *_opsets(model), *_functions(model), *_operators(model)]
    found += _scope(model.graph, ())
    for function in model.functions.values():
        found += _scope(function, ())
    return found


def require(model: ir.Model, step: str, expected: Signature, found: Signature) -> None:
    """Check what a pass left: a valid model, with the inputs and outputs that the pass declares.

    Args:
        model: The model after the pass.
        step: The pass.
        expected: The signature before it, with the changes that it declares.
        found: The signature of `model`.

    Raises:
        VerificationFailed: The model is not valid, or has another signature.
    """
    violations, fact = check(model), f"the pass {step} left an invalid model"
    if not violations:
        violations, fact = check_signature(expected, found), f"the pass {step} changed the model's inputs or outputs"
    if violations:
        error = VerificationFailed(
            fact, note=str(violations[0]), hint="this is a bug of ours, please report it; nothing was written"
        )
        error.step = step.partition("(")[0]
        raise error


def check_signature(expected: Signature, found: Signature) -> list[Violation]:
    """How the signature after a pass differs from the one that the pass declares.

    A size that was not known before may be known now, because shapes are inferred between.
    """
    violations: list[Violation] = []
    for what, before, after in (
        ("inputs", expected.inputs, found.inputs),
        ("outputs", expected.outputs, found.outputs),
    ):
        names = [[spec.name for spec in specs] for specs in (before, after)]
        if names[0] != names[1]:
            rule = f"were called {', '.join(names[0])}, and are called {', '.join(names[1])}"
            violations.append(Violation(f"the {what} of the model", rule))
            continue
        violations += [
            Violation(f"the {what[:-1]} '{was.name}'", f"was {was}, and is {spec}")
            for was, spec in zip(before, after, strict=True)
            if was.dtype not in {spec.dtype, "unknown"} or not _fits(was.shape, spec.shape)
        ]
    return violations


def _fits(was: tuple[Dim, ...] | None, now: tuple[Dim, ...] | None) -> bool:
    if was is None:
        return True
    return now is not None and len(was) == len(now) and all(_same(a, b) for a, b in zip(was, now, strict=True))


def _same(was: Dim, now: Dim) -> bool:
    return was == now or (is_free(was) and symbol_of(was) is None)


def _opsets(model: ir.Model) -> Iterator[Violation]:
    if not model.graph.outputs:
        yield Violation(f"graph '{model.graph.name}'", "has no outputs")
    called = {_domain(domain) for domain, _, _ in model.functions}
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        version = graph.standard_version(root.opset_imports)
        if version < 1 and any(domain in graph.STANDARD_DOMAINS for domain in root.opset_imports):
            yield Violation(
                f"{'graph' if root is model.graph else 'function'} '{root.name}'", f"imports opset {version}"
            )
        imported = called | {_domain(domain) for domain in root.opset_imports}
        for node in graph.nodes_below(root):
            if _domain(node.domain) not in imported:
                yield Violation(graph.label(node), f"its domain '{node.domain}' is not imported")


def _references(model: ir.Model) -> Iterator[Violation]:
    """Only a function has attributes to refer to: anywhere else the node would have none of that name."""
    for scope in graph.with_bodies(model.graph):
        for node in scope:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    rule = f"its attribute '{attribute.name}' refers to one of a function, and it is in none"
                    yield Violation(graph.label(node), rule)


def _operators(model: ir.Model) -> Iterator[Violation]:
    """Passes read what an operator must have without asking whether it is there, and lists without comparing them."""
    for node, opset in graph.nodes_with_opset(model):
        if node.domain in graph.STANDARD_DOMAINS and node.op_identifier() not in model.functions:
            problem = schemas.why_malformed(node, opset) or consistency.why_inconsistent(node, opset)
            if problem is not None:
                yield Violation(graph.label(node), problem)


def _domain(written: str) -> str:
    return "" if written == "ai.onnx" else written


class _Known:
    """What a scope has defined so far, and what its names will mean once all of it is read."""

    def __init__(self, scope: ir.Graph | ir.Function) -> None:
        self.values: set[ir.Value] = set()
        self.given: set[str] = set()
        stored = scope.initializers.values() if isinstance(scope, ir.Graph) else ()
        made = (value for node in scope for value in node.outputs)
        self.names = {value.name: value for value in (*stored, *made, *scope.inputs) if value.name}


def _scope(scope: ir.Graph | ir.Function, outer: tuple[_Known, ...]) -> Iterator[Violation]:
    """One scope and its bodies: each value is made once, before it is used, and visible where it is used.

    A body's input or initializer may have the name of an outer value, as exporters do it, but the body must not use the
    outer value then: a file knows values by name only, and would mean the inner one. A node's output must not: onnx's
    checker and onnxruntime refuse that.
    """
    known = _Known(scope)
    scopes = (*outer, known)
    where = f"graph '{scope.name}'"
    for value in scope.inputs:
        yield from _define(value, where, known)
    if isinstance(scope, ir.Graph):
        yield from _initializers(scope, where, known)
    for node in scope:
        for used in node.inputs:
            if used is not None:
                yield from _use(used, graph.label(node), scopes)
        for body in graph.bodies(node):
            yield from _scope(body, scopes)
        for value in node.outputs:
            if value.name:
                yield from _define(value, graph.label(node), known)
                if any(value.name in one.given for one in outer):
                    yield Violation(graph.label(node), f"makes '{value.name}', which an outer graph has made already")
    for value in scope.outputs:
        if value not in known.values:
            outside = any(value.name in one.names for one in outer)
            rule = "is a value of an outer graph, which needs an Identity" if outside else "is made by no node"
            yield Violation(where, f"the output '{value.name}' {rule}")


def _use(used: ir.Value, where: str, scopes: tuple[_Known, ...]) -> Iterator[Violation]:
    for one in reversed(scopes):
        if used in one.values:
            return
        if used.name in one.names and any(used in further.values for further in scopes):
            yield Violation(where, f"uses an outer '{used.name}' where an inner value has the same name")
            return
    yield Violation(where, f"uses '{used.name}' before it exists")


def _initializers(scope: ir.Graph, where: str, known: _Known) -> Iterator[Violation]:
    for value in scope.initializers.values():
        if value.const_value is None:
            yield Violation(where, f"the initializer '{value.name}' has no data")
        if value not in known.values:  # an initializer may also be an input
            yield from _define(value, where, known)


def _define(value: ir.Value, where: str, known: _Known) -> Iterator[Violation]:
    if not value.name:
        yield Violation(where, "a value has no name")
    elif value.name in known.given:
        yield Violation(where, f"the name '{value.name}' is given twice")
    known.given.add(value.name or "")
    known.values.add(value)


def _functions(model: ir.Model) -> Iterator[Violation]:
    """Functions may call each other, not themselves, and must not explode when they are inlined."""
    sizes: dict[ir.OperatorIdentifier, int] = {}
    active: list[ir.OperatorIdentifier] = []

    def size(nodes: Iterable[ir.Node]) -> int:
        """How many nodes these are once all calls are inlined."""
        return sum(called(node.op_identifier()) for node in nodes)

    def called(key: ir.OperatorIdentifier) -> int:
        if key not in model.functions:
            return 1
        if key not in sizes:
            if key in active:
                raise _Unbounded(key[1], "calls itself")
            if len(active) == MAX_FUNCTION_DEPTH:
                raise _Unbounded(active[0][1], f"calls functions more than {MAX_FUNCTION_DEPTH} deep")
            active.append(key)
            sizes[key] = size(graph.nodes_below(model.functions[key]))
            active.pop()
        return sizes[key]

    try:
        total = max([size(graph.nodes_below(model.graph)), *map(called, model.functions)])
    except _Unbounded as error:
        yield Violation(f"function '{error.args[0]}'", error.args[1])
        return
    if model.functions and total > MAX_FUNCTION_NODES:
        yield Violation("the functions", f"are more than {MAX_FUNCTION_NODES:,} nodes once they are inlined")


class _Unbounded(Exception):
    """Functions call each other without end, or are nested more than `MAX_FUNCTION_DEPTH` deep."""
