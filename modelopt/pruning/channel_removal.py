"""Removes channels: stored tensors lose the positions, and nodes that name sizes get the new ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.channel_groups import ChannelGroup
from modelopt.pruning.dependencies import Dependencies, Kept


def remove(model: ir.Model, found: Dependencies, channels: Iterable[int]) -> None:
    """Remove channels from a model.

    Args:
        model: The model that `found` was made of; it is changed.
        found: Its dependencies.
        channels: Atoms (roots) of channels that may go.

    Raises:
        ValueError: An axis would have no position left, or a channel must stay. The model is unchanged then.
    """
    kept = Kept(found.atoms, frozenset(channels))
    for atom in kept.removed:
        why = found.atoms.why_kept(atom)
        if why is not None:
            raise ValueError(f"a channel must stay: {why}")
    masks = {
        (value, axis): mask
        for value, axes in found.labels.items()
        for axis, labels in axes.items()
        if not (mask := kept.mask(labels)).all()
    }
    for (value, axis), mask in masks.items():
        if not mask.any():
            raise ValueError(f"axis {axis} of '{value.name}' would be empty")
    names = graph.NameSource(model)
    for change in found.edits(kept):
        change(kept, names)
    for value in dict.fromkeys(value for value, _ in masks):
        axes = {axis: mask for (each, axis), mask in masks.items() if each is value}
        tensor = graph.constant_tensor(value)
        if tensor is not None:
            array = tensor.numpy()
            for axis, mask in axes.items():
                array = np.compress(mask, array, axis)
            graph.set_constant(value, array)
        elif value.shape is not None:
            sizes = list(value.shape)
            for axis, mask in axes.items():
                sizes[axis] = int(np.count_nonzero(mask))
            value.shape = ir.Shape(sizes)


def zero(group: ChannelGroup, channels: Iterable[int]) -> None:
    """Let every node that sums over these channels multiply them by zero: what removing them must be equal to.

    Args:
        group: The group; the weights of its consumers are changed.
        channels: Atoms of the group.
    """
    indices = [group.channels.index(atom) for atom in channels]
    for consumer in group.consumers:
        place = group.by_place[consumer.weight, consumer.weight_axis]
        tensor = graph.constant_tensor(consumer.weight)
        if tensor is None:
            raise ValueError(f"'{consumer.weight.name}' is not constant")
        array = np.array(tensor.numpy())
        for index in indices:
            selected: list[slice | np.ndarray] = [slice(None)] * array.ndim
            selected[consumer.weight_axis] = place.positions[index]
            array[tuple(selected)] = 0
        graph.set_constant(consumer.weight, array)
