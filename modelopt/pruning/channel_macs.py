"""Multiply-accumulates of a model without some of its channels, from the shapes that it has with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import name_in
from modelopt.graph import macs
from modelopt.pruning.dependencies import Dependencies, Kept

_STEPS = 24


@dataclass(frozen=True)
class ChannelMacs:
    """The MACs of each node of a model, and how they follow its channels.

    Attributes:
        found: The dependencies of the model.
        by_node: The MACs of the nodes that multiply, for all channels.
        axes: For each of them the (value, axis) whose sizes the MACs are proportional to, of those that can shrink.
    """

    found: Dependencies
    by_node: Mapping[ir.Node, int]
    axes: Mapping[ir.Node, tuple[tuple[ir.Value, int], ...]]

    @classmethod
    def of(cls, model: ir.Model, found: Dependencies) -> ChannelMacs:
        """Count the nodes whose shapes are known; the model has its shapes, and all channels."""
        by_node = {node: number for node in graph.all_nodes(model) if (number := macs.macs(node)) is not None}
        return cls(found, by_node, {node: _axes(node, found) for node in by_node})

    @property
    def total(self) -> int:
        """With all channels."""
        return sum(self.by_node.values())

    def without(self, removed: Sequence[int]) -> int:
        """Without these atoms."""
        kept = Kept(self.found.atoms, frozenset(removed))
        shares: dict[tuple[ir.Value, int], float] = {}
        total = 0.0
        for node, number in self.by_node.items():
            for place in self.axes[node]:
                if place not in shares:
                    labels = self.found.labels[place[0]][place[1]]
                    shares[place] = kept.count(labels) / max(labels.size, 1)
            total += number * math.prod(shares[place] for place in self.axes[node])
        return round(total)


def _axes(node: ir.Node, found: Dependencies) -> tuple[tuple[ir.Value, int], ...]:
    """All axes of a stored weight, and those of the output that it does not make; of two computed ones all of both."""
    output = node.outputs[0]
    weight = next((value for value in node.inputs[:2] if graph.constant_tensor(value) is not None), None)
    if weight is not None:
        rank = graph.rank(output) or 2
        made = 1 if node.op_type.startswith("Conv") else rank - (1 if weight is node.inputs[1] else 2)
        places = [(weight, axis) for axis in found.axes(weight)]
        return (*places, *((output, axis) for axis in found.axes(output) if axis != made))
    places = [(output, axis) for axis in found.axes(output)]
    left = node.inputs[0]
    inner = (graph.rank(left) or 0) - 1
    if left is not None and node.op_type == "MatMul" and inner in found.axes(left):
        places.append((left, inner))
    return tuple(places)


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
