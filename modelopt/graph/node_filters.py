"""Which nodes the user named: globs, ``re:`` expressions and ``op:`` operator types."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, did_you_mean
from modelopt.graph import match


def names_node(pattern: str, node: ir.Node) -> bool:
    """Whether `pattern` names `node`.

    Args:
        pattern: ``op:Conv`` an operator type (a glob), ``re:...`` an expression that must match the whole name,
            anything else a glob over names. A node without a name goes by its first output's.
        node: The node.

    Raises:
        InputError: The expression does not compile, or takes too long.
    """
    if pattern.startswith("op:"):
        return match.names_type(pattern, node)
    name = graph.name_of(node)
    compiled = match.expression(pattern)
    return fnmatchcase(name, pattern) if compiled is None else compiled.matches(name)


def why_left_out(node: ir.Node, include: Iterable[str], exclude: Iterable[str]) -> str | None:
    """Why the patterns leave `node` out, else None; without patterns to include, every node is included."""
    included = list(include)
    if included and not any(names_node(pattern, node) for pattern in included):
        return "not included"
    return "excluded" if any(names_node(pattern, node) for pattern in exclude) else None


def check_used(patterns: Iterable[str], nodes: Iterable[ir.Node]) -> None:
    """Refuse a pattern that names no node: it is a typo more often than not.

    Raises:
        InputError: A pattern names nothing.
    """
    listed = list(nodes)
    for pattern in patterns:
        if any(names_node(pattern, node) for node in listed):
            continue
        known = {f"op:{node.op_type}" for node in listed} | {node.name or "" for node in listed}
        raise InputError(
            f"the pattern '{pattern}' names no node of the model", hint=did_you_mean(pattern, sorted(known))
        )
