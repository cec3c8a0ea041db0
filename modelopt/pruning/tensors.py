"""Which tensors to prune: those that the user named, without those that must not or need not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, did_you_mean
from modelopt.graph import match
from modelopt.graph.types import FLOATS
from modelopt.pruning.weights import Weight, all_operands


@dataclass(frozen=True)
class Selection:
    """What to prune.

    Attributes:
        weights: One for each tensor, seen from the first node that uses it.
        refusals: (name, reason) of each tensor that is included and stays as it is.
    """

    weights: tuple[Weight, ...]
    refusals: tuple[tuple[str, str], ...]


def select(model: ir.Model, *, include: Iterable[str], exclude: Iterable[str], min_elements: int) -> Selection:
    """Choose tensors by their names and those of the nodes that read them, then by their type and size.

    Args:
        model: The model; it is not changed.
        include: Patterns (see `match.names`), or ``op:Conv``: what nodes of this type use; empty means all.
        exclude: Patterns; they win over `include`.
        min_elements: Tensors with fewer elements stay.

    Raises:
        InputError: A pattern matches nothing, or is not a valid regular expression.
    """
    first: dict[ir.Value, tuple[ir.Node, int]] = {}
    users: dict[ir.Value, list[ir.Node]] = {}
    for node, index, value in all_operands(model):
        first.setdefault(value, (node, index))
        users.setdefault(value, []).append(node)
    included = {value for pattern in include for value in _must_match(pattern, users, "include")}
    excluded = {value for pattern in exclude for value in _must_match(pattern, users, "exclude")}
    refusals: list[tuple[str, str]] = []
    weights = []
    for value, (node, index) in first.items():
        if included and value not in included:
            continue
        reason = "it is excluded" if value in excluded else _why_not(value, min_elements)
        tensor = graph.constant_tensor(value)
        if reason or tensor is None:
            refusals.append((f"{value.name} of {graph.label(node)}", reason or "it is not constant"))
        else:
            weights.append(Weight(value, tensor, node, index))
    return Selection(tuple(weights), tuple(refusals))


def _matching(pattern: str, users: Mapping[ir.Value, list[ir.Node]]) -> list[ir.Value]:
    """The operands that a pattern names: by their names, or by the names or the type of the nodes that use them."""
    if pattern.startswith("op:"):
        return [value for value, nodes in users.items() if any(match.names_type(pattern, node) for node in nodes)]
    return [value for value, nodes in users.items() if match.names(pattern, _names(value, nodes))]


def _names(value: ir.Value, nodes: Iterable[ir.Node]) -> list[str]:
    return [name for name in (value.name, *(node.name for node in nodes)) if name]


def _must_match(pattern: str, users: Mapping[ir.Value, list[ir.Node]], option: str) -> list[ir.Value]:
    found = _matching(pattern, users)
    if not found:
        types = {f"op:{node.op_type}" for nodes in users.values() for node in nodes}
        known = [name for value, nodes in users.items() for name in _names(value, nodes)]
        hint = did_you_mean(pattern, [*known, *sorted(types)])
        raise InputError(f"{option} '{pattern}' matches no prunable weight and no node that uses one", hint=hint)
    return found


def _why_not(value: ir.Value, min_elements: int) -> str | None:
    tensor = graph.constant_tensor(value)
    if tensor is None:
        overridable = graph.is_overridable(value) and value.const_value is not None
        return "it is also a graph input: a caller may override it" if overridable else "it is not constant"
    if tensor.dtype not in FLOATS:
        return f"it is {tensor.dtype.name.lower()}"
    if len(tensor.shape) < 2:
        return "it has one axis only"
    if tensor.size < min_elements:
        return f"it has {tensor.size} elements, fewer than min-elements {min_elements}"
    return "it holds NaN" if np.isnan(tensor.numpy()).any() else None
