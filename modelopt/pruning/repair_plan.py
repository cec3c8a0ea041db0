"""Which layers of a pruned model compute from wrong inputs, and in which order they are fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

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
        sums: By layer, the residual sum behind it that it is fitted to, where it makes up for the whole stream.
    """

    stages: tuple[tuple[ir.Node, ...], ...]
    kept: Mapping[tuple[ir.Value, int], np.ndarray]
    consumers: Mapping[ir.Node, tuple[Consumer, ...]]
    sums: Mapping[ir.Node, ir.Value] = field(default_factory=dict)

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
        return cls(_Staged(model, cut, consumers).stages(), kept, consumers)

    @classmethod
    def behind(cls, model: ir.Model, readers: Collection[ir.Node], level_sums: Collection[ir.Node]) -> RepairPlan:
        """The plan for a model without some residual blocks, from which they have been removed.

        A layer that ends the branch of another block is fitted to the sum behind it: so it adds what the stream lacks.

        Args:
            model: The model.
            readers: The nodes that read the sums of the removed blocks.
            level_sums: Sums of two values of one shape.
        """
        staged = _Staged(model, readers)
        sums = {
            node: end for node, level in staged.level.items() if (end := _sum_behind(node, level_sums, staged, level))
        }
        return cls(staged.stages(), {}, {}, sums)

    def target(self, node: ir.Node) -> ir.Value:
        """The value that a layer is fitted to: its output, or a sum behind it."""
        return self.sums.get(node, node.outputs[0])

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


class _Staged:
    """The stages of the layers that compute from wrong inputs.

    Args:
        model: The model.
        cut: The nodes that read what has changed.
        others: Nodes to fit where they compute from wrong inputs, besides layers and BatchNormalizations.

    Attributes:
        level: By what is fitted, its stage, counted from 1.
        depth: By value, the stage that everything it is computed from is fitted before; 0 where nothing is wrong.
    """

    def __init__(self, model: ir.Model, cut: Collection[ir.Node], others: Collection[ir.Node] = ()) -> None:
        self.level: dict[ir.Node, int] = {}
        self.depth: dict[ir.Value, int] = {}
        for node in model.graph:
            wrong = max((self.depth.get(value, 0) for value in node.inputs if value is not None), default=0)
            if not wrong and node not in cut:
                continue
            level = max(wrong, 1)
            if layer_of(node) is not None or node in others or graph.is_standard(node, "BatchNormalization"):
                self.level[node] = level
                level += 1
            for value in node.outputs:
                self.depth[value] = level

    def stages(self) -> tuple[tuple[ir.Node, ...], ...]:
        """What is fitted in each stage, in order."""
        stages: dict[int, list[ir.Node]] = defaultdict(list)
        for node, level in self.level.items():
            stages[level].append(node)
        return tuple(tuple(stages[level]) for level in sorted(stages))


def _sum_behind(node: ir.Node, level_sums: Collection[ir.Node], staged: _Staged, level: int) -> ir.Value | None:
    """The residual sum that a layer ends a branch of, where all else in the sum is fitted before; otherwise None."""
    layer = layer_of(node)
    if layer is None:
        return None
    groups, _, made = layer.matrix().shape
    value = node.outputs[0]
    add = graph.sole_consumer(value)
    while add is not None and graph.is_standard(add, "Add") and add not in level_sums:
        tensor = next((found for each in add.inputs if (found := graph.constant_tensor(each)) is not None), None)
        if tensor is None or tensor.size not in {1, groups * made}:
            return None
        value = add.outputs[0]
        add = graph.sole_consumer(value)
    if add is None or add not in level_sums:
        return None
    others = [each for each in add.inputs if each is not value]
    fitted = len(others) == 1 and others[0] is not None and staged.depth.get(others[0], 0) <= level
    return add.outputs[0] if fitted else None
