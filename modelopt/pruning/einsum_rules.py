"""The rule for Einsum of two operands: each letter is an axis that passes, is a batch, or is summed over."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.dependencies import Dependencies, Rule
from modelopt.pruning.product_rules import contract
from modelopt.pruning.unproven import Unproven, require
from modelopt.pruning.weight_axes import Consumer, Producer

_EQUATION = re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]*)")


def einsum(node: ir.Node, found: Dependencies) -> None:
    """Two operands, every letter once in each: what the output lacks is summed over."""
    written = _EQUATION.fullmatch(re.sub(r"\s", "", graph.attribute_string(node, "equation", "")))
    if written is None or any(len(set(part)) != len(part) for part in written.groups()):
        raise Unproven("its equation is not a product of two operands")
    require(len(node.inputs) == 2)
    require([len(found.shape(value)) for value in node.inputs] == [len(part) for part in written.groups()[:2]])
    operands, made = (written[1], written[2]), written[3]
    stored = [graph.constant_tensor(value) is not None for value in node.inputs]
    if all(stored):
        raise Unproven("both factors are constant")
    weight = node.inputs[stored.index(True)] if any(stored) else None
    for letter in dict.fromkeys(operands[0] + operands[1]):
        places = [
            (value, part.index(letter)) for value, part in zip(node.inputs, operands, strict=True) if letter in part
        ]
        if letter not in made:
            _summed(node, found, places, weight)
        else:
            _kept(node, found, places, made.index(letter), weight)


def _summed(
    node: ir.Node, found: Dependencies, places: list[tuple[ir.Value | None, int]], weight: ir.Value | None
) -> None:
    data = [(value, axis) for value, axis in places if value is not weight]
    if len(places) == 2 and len(data) == 1 and weight is not None:
        value, axis = data[0]
        if value is not None and axis in found.axes(value):
            contract(node, found, Consumer(node, value, axis, weight, dict(places)[weight]))
        return
    for value, axis in data:
        found.keep(value, "Einsum sums over it without weights", axis)


def _kept(
    node: ir.Node,
    found: Dependencies,
    places: list[tuple[ir.Value | None, int]],
    made: int,
    weight: ir.Value | None,
) -> None:
    if len(places) == 1:
        value, axis = places[0]
        labels = found.of(value, axis) if value is weight else found.axes(value).get(axis)
        if labels is not None and value is weight and weight is not None:
            found.producers.append(Producer(node, weight, axis))
        found.put(node.outputs[0], made, labels)
        return
    (first, one), (second, other) = places
    if weight is not None and not any(axis in found.axes(value) for value, axis in places if value is not weight):
        return  # an axis that stays
    labels = found.unite(found.of(first, one), found.of(second, other), "Einsum combines it with what cannot shrink")
    found.put(node.outputs[0], made, labels)
    if labels is not None and weight is None:
        found.heads.append(labels)


RULES: Mapping[tuple[str, str], Rule] = {("", "Einsum"): einsum}
