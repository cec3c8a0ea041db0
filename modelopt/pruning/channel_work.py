"""What the work and the size of a model become when groups of channels get other widths, without making the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import macs
from modelopt.graph.types import FLOATS
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.channel_groups import Channels
from modelopt.pruning.channel_macs import AxisPlace, ChannelMacs
from modelopt.pruning.dependencies import Dependencies

Widths = Mapping[str, int]
"""By group, how many of its channels stay; a group that is not named keeps all."""


@dataclass(frozen=True)
class LabelledAxis:
    """An axis of a tensor, some positions of which belong to groups.

    Attributes:
        axis: The axis.
        size: All its positions.
        positions: By group, how many of them belong to it.
    """

    axis: int
    size: int
    positions: Mapping[str, int]


@dataclass(frozen=True)
class TensorWork:
    """A tensor that shrinks with groups.

    Attributes:
        value: The tensor.
        shape: Its shape.
        axes: The axes that shrink.
    """

    value: ir.Value
    shape: tuple[int, ...]
    axes: tuple[LabelledAxis, ...]


@dataclass(frozen=True)
class NodeWork:
    """A node whose work shrinks with groups.

    Attributes:
        node: The node.
        operands: What its work is proportional to: the weights, which count by their sizes; without weights the data.
    """

    node: ir.Node
    operands: tuple[TensorWork, ...]

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it depends on."""
        return frozenset(name for each in self.operands for axis in each.axes for name in axis.positions)


class ChannelWork:
    """The work of a model by the widths of its groups.

    Args:
        model: The model, with the shapes of its values.
        found: Its dependencies.
        channels: Its groups.
    """

    def __init__(self, model: ir.Model, found: Dependencies, channels: Channels) -> None:
        self.widths = {group.name: group.width for group in channels.groups}
        self._found = found
        self._group_of = {atom: group.name for group in channels.groups for atom in group.channels}
        self._counted: dict[int, dict[str, int]] = {}
        self._counted_macs = ChannelMacs.of(model, found)
        nodes = ((node, self._operands(node)) for node in model.graph)
        self.nodes: tuple[NodeWork, ...] = tuple(NodeWork(node, operands) for node, operands in nodes if operands)
        stored = [value for value in found.labels if graph.constant_tensor(value) is not None]
        self._tensors = [tensor for value in stored if (tensor := self._tensor(value)) is not None]

    def tensor_share(self, tensor: TensorWork, widths: Widths) -> float:
        """The part of a tensor that is left."""
        return math.prod(self.axis_left(axis, widths) / axis.size for axis in tensor.axes)

    def axis_left(self, axis: LabelledAxis, widths: Widths) -> float:
        """How many positions of an axis are left."""
        return self._left(axis.positions, axis.size, widths)

    def _left(self, positions: Mapping[str, int], size: int, widths: Widths) -> float:
        gone = (count * (1 - widths[name] / self.widths[name]) for name, count in positions.items() if name in widths)
        return size - sum(gone)

    def node_share(self, work: NodeWork, widths: Widths) -> float:
        """The part of a node's work that is left."""
        sizes = [math.prod(each.shape) for each in work.operands]
        shares = [self.tensor_share(each, widths) for each in work.operands]
        return sum(size * share for size, share in zip(sizes, shares, strict=True)) / sum(sizes)

    def macs(self, widths: Widths) -> float:
        """The multiply-accumulates that are left."""

        @cache
        def share(place: AxisPlace) -> float:
            labels = self._found.labels[place[0]][place[1]]
            return self._left(self._positions(labels), len(labels), widths) / max(len(labels), 1)

        return self._counted_macs.left(share)

    def bytes_saved(self, widths: Widths) -> float:
        """The bytes of stored tensors that are gone."""
        return sum(
            tensor.nbytes * (1 - self.tensor_share(each, widths))
            for each in self._tensors
            if (tensor := graph.constant_tensor(each.value)) is not None
        )

    def _operands(self, node: ir.Node) -> tuple[TensorWork, ...]:
        inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
        weights = [each for each in inputs if _is_weight(each)]
        if weights:
            known = [self._tensor(value) or TensorWork(value, _shape(value) or (1,), ()) for value in weights]
            return tuple(known) if any(each.axes for each in known) else ()
        data = [*inputs, *node.outputs]
        found = [tensor for value in data if (tensor := self._tensor(value)) is not None]
        return (max(found, key=lambda each: len(each.axes) and math.prod(each.shape)),) if found else ()

    def _tensor(self, value: ir.Value) -> TensorWork | None:
        """A tensor with its labelled axes; None where it has none, or its shape is not known."""
        shape = _shape(value)
        if shape is None or 0 in shape:
            return None
        axes = []
        for axis, labels in self._found.labels.get(value, {}).items():
            positions = self._positions(labels)
            if positions and axis < len(shape):
                axes.append(LabelledAxis(axis, len(labels), positions))
        return TensorWork(value, shape, tuple(axes)) if axes else None

    def _positions(self, labels: np.ndarray) -> dict[str, int]:
        if id(labels) not in self._counted:  # the same array labels many values
            found: dict[str, int] = {}
            for atom in labels.tolist():
                name = None if atom == FIXED else self._group_of.get(self._found.atoms.root(atom))
                if name is not None:
                    found[name] = found.get(name, 0) + 1
            self._counted[id(labels)] = found
        return self._counted[id(labels)]


def candidate_widths(width: int, align: int, levels: int, *, least: int = 1) -> tuple[int, ...]:
    """Widths to choose from, in falling order, without the whole: multiples of `align`, about evenly spread.

    A group that has fewer than four multiples takes a smaller power of two in place of `align`: it has other choices
    then, although each may be slower for its size. The measured times decide.

    Args:
        width: The whole.
        align: The multiple.
        levels: How many widths to choose from at most.
        least: The smallest one.
    """
    while align > 1 and width / align < 4:
        align //= 2
    multiples = [count for count in range(align, width, align) if count >= least]
    if len(multiples) > levels:
        places = {round(place) for place in np.linspace(0, len(multiples) - 1, levels)}
        multiples = [multiples[place] for place in sorted(places)]
    return tuple(reversed(multiples))


def _is_weight(value: ir.Value) -> bool:
    tensor = graph.constant_tensor(value)
    return tensor is not None and tensor.dtype in FLOATS and len(tensor.shape) >= 2 and tensor.size > 1


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    dims = macs.dims(value)
    known: Sequence[int] | None = None if dims is None else [dim for dim in dims if dim is not None]
    return None if dims is None or known is None or len(known) != len(dims) else tuple(known)
