"""Channels that no output needs: those that hold one number for every input, and those that nothing reads.

A node that sums over a channel (`dependencies.Consumer`) multiplies it by weights. It does not need the channel where
these weights are zero, where they only make channels that are dead themselves, where the channel is zero for every
input, and where the channel is another constant whose share of the sum its bias can take. A channel is dead when no
node that sums over it needs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.graph.match import Mismatch
from modelopt.patterns.convolution import as_convolution
from modelopt.pruning import bias_shares
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.bias_shares import BiasPlace, BiasShare
from modelopt.pruning.channel_groups import channels_of
from modelopt.pruning.dependencies import Consumer, Dependencies, Kept
from modelopt.pruning.interval_rules import rows_of
from modelopt.pruning.interval_sums import unread
from modelopt.pruning.value_intervals import Bounds


def may_have_any(model: ir.Model, known: Mapping[ir.Value, Bounds]) -> bool:
    """Whether some convolution or product reads a constant channel, or multiplies one by zeros: a cheap look."""
    return any(
        _reads_dead(node, known) for node in model.graph if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    )


def _reads_dead(node: ir.Node, known: Mapping[ir.Value, Bounds]) -> bool:
    data, tensor = node.inputs[0], graph.constant_tensor(node.inputs[1])
    if tensor is None or data is None or data.producer() is None:
        return False
    bounds = known.get(data)
    if bounds is not None and ((bounds.low == bounds.high) & np.isfinite(bounds.low)).any():
        return True
    if node.op_type in {"Conv", "ConvTranspose"}:
        conv = as_convolution(node)
        return not isinstance(conv, Mismatch) and conv.group == 1 and bool(unread(rows_of(conv)).any())
    if len(tensor.shape) != 2:
        return False
    weight = tensor.numpy()
    return bool(unread((weight if graph.attribute_int(node, "transB", 0) else weight.T)[:, :, None]).any())


@dataclass(frozen=True)
class Reader:
    """A consumer, and what it does with each position that it sums over.

    Attributes:
        consumer: The consumer.
        atoms: The root at each position, int64 of shape (n,).
        makes: The root of each channel that it makes, of shape (m,); None where these are not labelled.
        numbers: The constant at each position, NaN where it depends on the input; float64 of shape (n,).
        uses: Whether a position has a weight that is not zero for a channel that it makes: bool, shape (n, m).
        bias: Where its bias is, or why it cannot take the share of a constant.
    """

    consumer: Consumer
    atoms: np.ndarray
    makes: np.ndarray | None
    numbers: np.ndarray
    uses: np.ndarray
    bias: BiasPlace | str

    def needs(self, dead: np.ndarray) -> np.ndarray:
        """Which positions it needs, where these atoms are dead: bool, shape (n,)."""
        found: np.ndarray = self.reads(dead) & (
            (self.numbers != 0) if isinstance(self.bias, str) else np.isnan(self.numbers)
        )
        return found

    def reads(self, dead: np.ndarray) -> np.ndarray:
        """Which positions have a weight for a channel that is not dead: bool, shape (n,)."""
        used: np.ndarray = self.uses if self.makes is None else self.uses[:, ~np.isin(self.makes, dead)]
        return np.asarray(used.any(axis=1))


@dataclass
class DeadChannels:
    """The dead channels of a model.

    Attributes:
        found: The dependencies of the model.
        bounds: The bounds of its values.
        skipped: Channels that are constant or unread and stay, with the reason.
    """

    found: Dependencies
    bounds: Mapping[ir.Value, Bounds]
    skipped: list[Skip] = field(default_factory=list)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """All consumers."""
        return tuple(self._reader(consumer) for consumer in self.found.consumers)

    def _reader(self, consumer: Consumer) -> Reader:
        found, axis = self.found, consumer.weight_axis
        tensor = graph.constant_tensor(consumer.weight)
        if tensor is None:
            raise ValueError(f"'{consumer.weight.name}' is not constant")
        made = next(
            (
                each.weight_axis
                for each in found.producers
                if each.node is consumer.node and each.weight is consumer.weight
            ),
            None,
        )
        labels = None if made is None else found.labels.get(consumer.weight, {}).get(made)
        array = tensor.numpy() != 0
        kept = {axis} if labels is None else {axis, made}
        uses = array.any(axis=tuple(each for each in range(array.ndim) if each not in kept))
        uses = uses[:, None] if labels is None else (uses.T if made is not None and made < axis else uses)
        bounds = self.bounds.get(consumer.data)
        size = len(uses)
        numbers = np.full(size, np.nan) if bounds is None else bounds.constants(consumer.data_axis, size)
        place = bias_shares.place_of(consumer)
        if not isinstance(place, str) and (np.nan_to_num(numbers) != 0).any():
            place = bias_shares.why_too_large(consumer, place, numbers) or place
        return Reader(
            consumer,
            found.atoms.roots(found.axes(consumer.data)[consumer.data_axis]),
            None if labels is None else found.atoms.roots(labels),
            numbers,
            uses,
            place,
        )

    def dead(self) -> frozenset[int]:
        """The atoms of the channels to remove: of each axis one stays, even where all are dead."""
        movable = {atom for group in channels_of(self.found).groups for atom in group.channels}
        staying: set[int] = set()
        while True:
            dead = self._dead(movable - staying)
            emptied = self._emptied(dead)
            if not emptied:
                self._explain(movable, staying, dead)
                return dead
            staying |= emptied

    def _dead(self, candidates: set[int]) -> frozenset[int]:
        """The largest set that follows from itself step by step: what only dead channels read is dead."""
        dead = np.zeros(0, np.int64)
        while True:
            needed = {atom for reader in self.readers for atom in reader.atoms[reader.needs(dead)].tolist()}
            found = np.array(sorted(candidates - needed), np.int64)
            if len(found) == len(dead):
                return frozenset(found.tolist())
            dead = found

    def _emptied(self, dead: frozenset[int]) -> set[int]:
        """For each axis that would have no position left, the channel that stays."""
        kept = Kept(self.found.atoms, dead)
        return {
            self.found.atoms.root(int(labels[0]))
            for axes in self.found.labels.values()
            for labels in axes.values()
            if len(labels) and not kept.mask(labels).any()
        }

    def _explain(self, movable: set[int], staying: set[int], dead: frozenset[int]) -> None:
        gone = np.array(sorted(dead), np.int64)
        counts: Counter[tuple[str, str]] = Counter()
        for reader in self.readers:
            needless = ~reader.reads(gone) | ~np.isnan(reader.numbers)
            stays = needless & ~np.isin(reader.atoms, gone)
            for atom, needed in zip(reader.atoms[stays].tolist(), reader.needs(gone)[stays].tolist(), strict=True):
                if needed:
                    why = str(reader.bias)
                elif atom in staying:
                    why = "one channel has to stay"
                elif atom in movable:
                    why = "another node needs it"
                else:
                    why = "it has to stay" if atom == FIXED else self.found.atoms.why_kept(atom) or "it is in no group"
                counts[graph.label(reader.consumer.node), why] += 1
        self.skipped += [
            Skip(node, f"{count} of its input channels constant or unread: {why}")
            for (node, why), count in counts.items()
        ]

    def shares(self, dead: Iterable[int]) -> list[BiasShare]:
        """What the biases of the nodes that read dead channels take over from them."""
        gone = np.array(sorted(dead), np.int64)
        found = []
        for reader in self.readers:
            at = np.isin(reader.atoms, gone) & reader.reads(gone) & (np.nan_to_num(reader.numbers) != 0)
            if at.any() and not isinstance(reader.bias, str):
                kept = None if reader.makes is None else ~np.isin(reader.makes, gone)
                found.append(bias_shares.share_of(reader.consumer, reader.bias, np.where(at, reader.numbers, 0), kept))
        return found
