"""Multiply-accumulates of a model without some of its channels, from the shapes that it has with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import name_in
from modelopt.graph import macs
from modelopt.graph.operators import RECURRENT
from modelopt.pruning.dependencies import Dependencies, Kept

_STEPS = 24


AxisPlace = tuple[ir.Value, int]
"""A value and an axis of it that has labels."""


@dataclass(frozen=True)
class Products:
    """Multiply-accumulates that are proportional to the sizes of some axes.

    Attributes:
        count: How many there are with all channels.
        places: Those axes, of those that can shrink.
    """

    count: int
    places: tuple[AxisPlace, ...]


@dataclass(frozen=True)
class ChannelMacs:
    """The MACs of a model, and how they follow its channels.

    Attributes:
        found: The dependencies of the model.
        products: Those of the nodes that multiply.
    """

    found: Dependencies
    products: tuple[Products, ...]

    @classmethod
    def of(cls, model: ir.Model, found: Dependencies) -> ChannelMacs:
        """Count the nodes whose shapes are known; the model has its shapes, and all channels."""
        counts = ((node, macs.macs(node)) for node in graph.all_nodes(model))
        return cls(found, tuple(each for node, count in counts if count for each in _products(node, count, found)))

    @property
    def total(self) -> int:
        """With all channels."""
        return sum(each.count for each in self.products)

    def left(self, share: Callable[[AxisPlace], float]) -> float:
        """What is left where a share of the positions of each axis stays."""
        return sum(each.count * math.prod(map(share, each.places)) for each in self.products)

    def without(self, removed: Sequence[int]) -> int:
        """Without these atoms."""
        kept = Kept(self.found.atoms, frozenset(removed))

        @cache
        def share(place: AxisPlace) -> float:
            labels = self.found.labels[place[0]][place[1]]
            return kept.count(labels) / max(labels.size, 1)

        return round(self.left(share))


def _products(node: ir.Node, count: int, found: Dependencies) -> list[Products]:
    """The MACs of a node by the axes that they are proportional to, each axis once."""
    if node.op_type in RECURRENT:
        sizes = [math.prod(_sizes(value)) for value in node.inputs[1:3]]  # each weight is used at each step
        first = count * sizes[0] // max(sum(sizes), 1)
        parts = zip((first, count - first), node.inputs[1:3], strict=True)
        return [Products(part, _all_of(weight, found)) for part, weight in parts]
    if node.op_type == "Attention" and node.domain == graph.CONTRIB_DOMAIN:
        data, weight = node.inputs[0], node.inputs[1]
        projection = math.prod((*_sizes(data), *_sizes(weight)[1:]))
        heads = _one_of(found, (weight, 1))
        return [Products(projection, _all_of(weight, found)), Products(count - projection, heads)]
    if node.op_type == "Einsum":
        return [Products(count, _letters(node, found))]
    output = _all_of(node.outputs[0], found)
    if node.op_type == "ConvTranspose":  # each element of the input meets the filters of all channels made
        return [Products(count, (*_all_of(node.inputs[0], found), *_one_of(found, (node.inputs[1], 1))))]
    if node.op_type in {"Conv", "FusedConv"}:
        return [Products(count, (*output, *_one_of(found, (node.inputs[1], 1))))]
    if node.op_type in {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"}:
        return [Products(count, (*output, *_one_of(found, *_summed(node))))]
    return [Products(count, output)]


def _summed(node: ir.Node) -> list[tuple[ir.Value | None, int]]:
    """The axis that a product of matrices sums over, in both factors."""
    left, right = node.inputs[0], node.inputs[1]
    ranks = [len(_sizes(value)) for value in (left, right)]
    first = ranks[0] - (2 if graph.attribute_int(node, "transA", 0) else 1)
    second = ranks[1] - (1 if graph.attribute_int(node, "transB", 0) or ranks[1] == 1 else 2)
    return [(left, first), (right, second)]


def _letters(node: ir.Node, found: Dependencies) -> tuple[AxisPlace, ...]:
    """The axes of an Einsum: one place for each letter."""
    terms = graph.attribute_string(node, "equation", "").replace(" ", "").split("->")[0].split(",")
    where: dict[str, list[tuple[ir.Value | None, int]]] = {}
    for value, term in zip(node.inputs, terms, strict=True):
        for axis, letter in enumerate(term):
            where.setdefault(letter, []).append((value, axis))
    return tuple(place for places in where.values() for place in _one_of(found, *places))


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of an operand of a node whose MACs are known."""
    return tuple(dim or 0 for dim in (None if value is None else macs.dims(value)) or ())


def _all_of(value: ir.Value | None, found: Dependencies) -> tuple[AxisPlace, ...]:
    return () if value is None else tuple((value, axis) for axis in found.axes(value))


def _one_of(found: Dependencies, *places: tuple[ir.Value | None, int]) -> tuple[AxisPlace, ...]:
    """The first of some places that has labels; they are of one axis."""
    return next((((value, axis),) for value, axis in places if value is not None and axis in found.axes(value)), ())


def share_for(counted: ChannelMacs, target: float, choose: Callable[[float], Sequence[int]]) -> float:
    """The smallest share of the channels of each group to remove with which no more than `target` of the MACs are left.

    Args:
        counted: The MACs.
        target: Share of the MACs that may be left, from 0 to 1.
        choose: Which atoms go for a share of each group.

    Returns:
        The share; 1 where even that is not enough.
    """
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if counted.without(choose(middle)) <= target * counted.total:
            high = middle
        else:
            low = middle
    return high


def sample_sizes(model: ir.Model, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The open sizes of the inputs, as a sample has them: by their names, see `known_shapes.bind`."""
    sizes: dict[str, int] = {}
    for spec in graph.signature(model).inputs:
        for axis, dim in enumerate(spec.shape or ()):
            name = name_in(spec.name, axis, dim)
            if name is not None and spec.name in feed:
                sizes.setdefault(name, int(feed[spec.name].shape[axis]))
    return sizes
