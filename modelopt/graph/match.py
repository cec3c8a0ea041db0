"""Helpers for matching patterns in a graph. What does not match is a `Mismatch` with a reason, not an exception."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import expressions
from modelopt.graph.expressions import Expression


@dataclass(frozen=True)
class Mismatch:
    """Why a pattern does not hold here.

    Attributes:
        reason: One clause without a final period.
        near: True when the place looked like the pattern, so that `--explain` shows the reason; False when it
            is just another node.
    """

    reason: str
    near: bool = True


@dataclass(frozen=True)
class NeedsOpset(Mismatch):
    """A pattern that holds here, but the operator that stands for it came with a later opset.

    Attributes:
        opset: The first one that has it.
    """

    opset: int = 0


NOT_HERE = Mismatch("another operator", near=False)


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value` when it is the standard operator `op_type`, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and graph.is_standard(node, op_type) else None


def split_constant(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """For a two-input node with exactly one constant operand: (the variable value, the constant value)."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    constants = [graph.constant_tensor(left) is not None, graph.constant_tensor(right) is not None]
    if constants == [False, True]:
        return left, right
    if constants == [True, False]:
        return right, left
    return None


def names_type(pattern: str, node: ir.Node) -> bool:
    """Whether `pattern`, such as ``op:Conv`` or ``op:Conv*``, names the operator type of `node`."""
    return pattern.startswith("op:") and fnmatch.fnmatchcase(node.op_type, pattern.removeprefix("op:"))


def names(pattern: str, known: Iterable[str]) -> list[str]:
    """Those of `known` that `pattern` matches.

    Args:
        pattern: A name as it is, a glob (``*``, ``?``, ``[…]``; case counts), or ``re:`` and a regular expression that
            must match the whole name.
        known: Names of nodes or tensors; they may hold any character.

    Raises:
        InputError: The regular expression is not valid, or takes too long.
    """
    compiled = expression(pattern)
    if compiled is None:
        return [name for name in known if name == pattern or fnmatch.fnmatchcase(name, pattern)]
    return [name for name in known if compiled.matches(name)]


def expression(pattern: str) -> Expression | None:
    """The regular expression behind ``re:``, which must match a whole name; None where `pattern` is none.

    Raises:
        InputError: It is not valid.
    """
    return expressions.compiled(pattern) if pattern.startswith("re:") else None
