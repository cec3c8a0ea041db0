"""Which layers of a pruned model compute from wrong inputs, and in which order they are fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.pruning.dependencies import Dependencies, Kept
from modelopt.pruning.summing_layer import SummingLayer, summing_layer
from modelopt.pruning.weight_axes import Consumer


@dataclass(frozen=True)
class RepairPlan:
    """What to fit.

    Attributes:
        stages: Layers and BatchNormalizations that depend on nothing in the same stage or a later one.
        kept: By value and axis, which positions of the original stay; without an entry all do.
        consumers: By node, the weights that meet channels of its inputs or, of recurrent operators, of its states.
    """

    stages: tuple[tuple[ir.Node, ...], ...]
    kept: Mapping[tuple[ir.Value, int], np.ndarray]
    consumers: Mapping[ir.Node, tuple[Consumer, ...]]

    @classmethod
    def of(cls, model: ir.Model, found: Dependencies, removed: frozenset[int]) -> RepairPlan:
        """The plan for removing these atoms from the model that `found` was made of; before or after they go."""
        state = Kept(found.atoms, removed)
        kept = {
            (value, axis): mask
            for value, axes in found.labels.items()
            for axis, labels in axes.items()
            if not (mask := state.mask(labels)).all()
        }
        cut = {each.node for each in found.consumers if (each.data, each.data_axis) in kept}
        consumers: dict[ir.Node, tuple[Consumer, ...]] = {}
        for each in found.consumers:
            consumers[each.node] = (*consumers.get(each.node, ()), each)
        return cls(_stages(model, cut, consumers), kept, consumers)

    @classmethod
    def behind(cls, model: ir.Model, readers: Collection[ir.Node]) -> RepairPlan:
        """The plan for a model in which these nodes read other values than in the original, all of the same shape."""
        return cls(_stages(model, readers, ()), {}, {})

    def kept_part(self, value: ir.Value, array: np.ndarray, whole_axis: int | None = None) -> np.ndarray:
        """What stays of a value that the original computed; all of it along `whole_axis`."""
        for (each, axis), mask in self.kept.items():
            if each is value and axis != whole_axis:
                array = np.compress(mask, array, axis)
        return array


def layer_of(node: ir.Node) -> SummingLayer | None:
    """The layer of a node of a stage; None for a BatchNormalization."""
    layer = summing_layer(node)
    return None if isinstance(layer, Mismatch) else layer


def _stages(model: ir.Model, cut: Collection[ir.Node], others: Collection[ir.Node]) -> tuple[tuple[ir.Node, ...], ...]:
    """The layers that compute from wrong inputs, each behind all that it depends on.

    Args:
        model: The model.
        cut: The nodes that read what has changed.
        others: Nodes to fit where they compute from wrong inputs, besides layers and BatchNormalizations.
    """
    depth: dict[ir.Value, int] = {}
    stages: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        wrong = max((depth.get(value, 0) for value in node.inputs if value is not None), default=0)
        if not wrong and node not in cut:
            continue
        level = max(wrong, 1)
        if layer_of(node) is not None or node in others or graph.is_standard(node, "BatchNormalization"):
            stages[level].append(node)
            level += 1
        for value in node.outputs:
            depth[value] = level
    return tuple(tuple(stages[level]) for level in sorted(stages))
