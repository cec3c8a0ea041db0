"""Which weights to prune: what the user named, without what may not or need not be touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.errors import InputError, did_you_mean
from modelopt.prune.weights import Weight, all_operands

_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Selection:
    """What to prune.

    Attributes:
        weights: One for each tensor, seen from the first node that uses it.
        refusals: (name, reason) of each tensor that stays although the user did not leave it out of `include`.
    """

    weights: tuple[Weight, ...]
    refusals: tuple[tuple[str, str], ...]


def select(model: ir.Model, *, include: Iterable[str], exclude: Iterable[str], min_elements: int) -> Selection:
    """Choose by the names of tensors and of the nodes that use them, then by what the tensors are.

    Args:
        model: The model; it is not changed.
        include: Patterns (see `match.names`); empty means all.
        exclude: Patterns; they win over `include`.
        min_elements: Tensors with fewer elements stay.

    Raises:
        InputError: A pattern of `include` matches nothing, or a pattern is not a valid regular expression.
    """
    names: dict[ir.Value, list[str]] = {}
    first: dict[ir.Value, tuple[ir.Node, int]] = {}
    for node, index, value in all_operands(model):
        first.setdefault(value, (node, index))
        names.setdefault(value, [value.name] if value.name else []).extend([node.name] if node.name else [])
    known = list(dict.fromkeys(name for each in names.values() for name in each))
    refusals = [(p, "this exclude pattern matches nothing") for p in exclude if not match.names(p, known)]
    included = {name for pattern in include for name in _must_match(pattern, known)}
    excluded = {name for pattern in exclude for name in match.names(pattern, known)}
    weights = []
    for value, (node, index) in first.items():
        if included and included.isdisjoint(names[value]):
            continue
        reason = "it is excluded" if excluded.intersection(names[value]) else _why_not(value, min_elements)
        tensor = graph.constant_tensor(value)
        if reason or tensor is None:
            refusals.append((f"{value.name} of {graph.label(node)}", reason or "it is not constant"))
        else:
            weights.append(Weight(value, tensor, node, index))
    return Selection(tuple(weights), tuple(refusals))


def _must_match(pattern: str, known: list[str]) -> list[str]:
    found = match.names(pattern, known)
    if not found:
        hint = did_you_mean(pattern, known)
        raise InputError(f"include '{pattern}' matches no prunable weight and no node that uses one", hint=hint)
    return found


def _why_not(value: ir.Value, min_elements: int) -> str | None:
    tensor = graph.constant_tensor(value)
    if tensor is None:
        overridable = graph.is_overridable(value) and value.const_value is not None
        return "it is also a graph input: a caller may override it" if overridable else "it is not constant"
    if tensor.dtype not in _FLOATS:
        return f"it is {tensor.dtype.name.lower()}"
    if len(tensor.shape) < 2:
        return "it has one axis only"
    if tensor.size < min_elements:
        return f"it has {tensor.size} elements, fewer than min-elements {min_elements}"
    return "it holds NaN" if np.isnan(tensor.numpy()).any() else None
