"""What can be removed: channels, and the groups of channels that have the same places in the same tensors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.dependencies import Dependencies
from modelopt.pruning.weight_axes import Consumer, Producer


@dataclass(frozen=True)
class Place:
    """An axis of a stored tensor that shrinks with a group.

    Attributes:
        value: The stored tensor.
        axis: The axis.
        positions: For each channel of the group its positions on the axis, in rising order.
    """

    value: ir.Value
    axis: int
    positions: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are alike: each has its positions on the same axes of the same tensors, and any of them may go.

    Attributes:
        name: The name of the first node that makes them; ``#2`` follows where another group has it already.
        channels: The atom (root) of each.
        places: Where they are stored.
        producers: The nodes that make them.
        consumers: The nodes that sum over them.
        is_heads: Whether each is a head of an attention.
    """

    name: str
    channels: tuple[int, ...]
    places: tuple[Place, ...]
    producers: tuple[Producer, ...]
    consumers: tuple[Consumer, ...]
    is_heads: bool = False

    @property
    def width(self) -> int:
        """How many channels there are."""
        return len(self.channels)

    @cached_property
    def by_place(self) -> Mapping[tuple[ir.Value, int], Place]:
        """The places by tensor and axis."""
        return {(place.value, place.axis): place for place in self.places}


@dataclass(frozen=True)
class Channels:
    """What can be removed from a model, and why the rest cannot.

    Attributes:
        groups: In the order of the nodes that make them.
        refused: By reason, how many channels must stay.
        unproven: By reason, how many nodes let all stay that they read.
    """

    groups: tuple[ChannelGroup, ...]
    refused: Mapping[str, int]
    unproven: Mapping[str, int]


def channels_of(found: Dependencies) -> Channels:
    """The groups of channels in the dependencies of a model."""
    where: dict[int, dict[tuple[ir.Value, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    passed: dict[int, list[tuple[int, int]]] = defaultdict(list)  # computed values that channels are in, by number
    for number, (value, axes) in enumerate(found.labels.items()):
        stored = graph.constant_tensor(value) is not None
        for axis, labels in axes.items():
            roots = found.atoms.roots(labels)
            if not stored:
                for atom in np.unique(roots).tolist():
                    passed[atom].append((number, axis))
                continue
            for position, atom in enumerate(roots.tolist()):
                if atom != FIXED:
                    where[atom][value, axis].append(position)
    summed = {(each.weight, each.weight_axis) for each in found.consumers}
    made = {(each.weight, each.weight_axis) for each in found.producers}
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for atom, places in where.items():
        why = found.atoms.why_kept(atom)
        if why is None and not made & places.keys():
            continue  # an axis of a tensor that nothing makes and that is not labelled elsewhere
        if why is None and not summed & places.keys():
            why = "nothing sums over it"
        if why is None:
            alike[*places, *map(len, places.values()), *passed[atom]].append(atom)
        else:
            refused[why] += 1
    heads = {atom for labels in found.heads for atom in found.atoms.roots(labels).tolist()}
    groups = []
    names: Counter[str] = Counter()
    for atoms in alike.values():
        group = _group(found, tuple(where[atoms[0]]), atoms, where, is_heads=atoms[0] in heads)
        names[group.name] += 1
        number = names[group.name]
        groups.append(group if number == 1 else replace(group, name=f"{group.name}#{number}"))
    return Channels(tuple(groups), dict(refused), dict(found.unproven))


def _group(
    found: Dependencies,
    key: tuple[tuple[ir.Value, int], ...],
    atoms: list[int],
    where: Mapping[int, Mapping[tuple[ir.Value, int], list[int]]],
    *,
    is_heads: bool,
) -> ChannelGroup:
    places = tuple(
        Place(value, axis, tuple(np.array(where[atom][value, axis]) for atom in atoms)) for value, axis in key
    )
    producers = tuple(each for each in found.producers if (each.weight, each.weight_axis) in key)
    consumers = tuple(each for each in found.consumers if (each.weight, each.weight_axis) in key)
    return ChannelGroup(graph.name_of(producers[0].node), tuple(atoms), places, producers, consumers, is_heads)
