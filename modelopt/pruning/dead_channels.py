"""Channels that no output needs: those that hold one number for every input, and those that nothing reads.

A node that sums over a channel (`dependencies.Consumer`) multiplies it by weights. It does not need the channel where
these weights are zero, where they only make channels that are dead themselves, where the channel is zero for every
input, and where the channel is another constant whose share of the sum its bias can take. A channel is dead when no
node that sums over it needs it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
from modelopt.pruning.dependencies import Dependencies, Kept
from modelopt.pruning.interval_rules import pads, rows_of
from modelopt.pruning.interval_sums import unread
from modelopt.pruning.value_intervals import Bounds
from modelopt.pruning.weight_axes import Consumer

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""The operators that sum over channels."""


def products(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes that sum over channels with stored weights."""
    for node in model.graph:
        is_product = node.op_type in _PRODUCTS and node.domain in graph.STANDARD_DOMAINS and len(node.inputs) > 1
        if is_product and graph.constant_tensor(node.inputs[1]) is not None:
            yield node


def may_have_any(model: ir.Model, known: Mapping[ir.Value, Bounds], align: int) -> bool:
    """Whether some convolution or product does not need so many of its channels that some could go: a cheap look."""
    found = (_needless(node, known) for node in products(model))
    return any(needless.any() and np.count_nonzero(needless) >= math.gcd(len(needless), align) for needless in found)


def _needless(node: ir.Node, known: Mapping[ir.Value, Bounds]) -> np.ndarray:
    """Which positions that it sums over are constant or meet zero weights only: bool, empty where it is not known."""
    data, tensor = node.inputs[0], graph.constant_tensor(node.inputs[1])
    rank = graph.rank(data)
    if tensor is None or data is None or data.producer() is None or rank is None:
        return np.zeros(0, bool)
    axis, only_zero = rank - 1, False
    if node.op_type in {"Conv", "ConvTranspose"}:
        conv = as_convolution(node)
        if isinstance(conv, Mismatch) or conv.group != 1:
            return np.zeros(0, bool)
        rows, axis, only_zero = rows_of(conv), 1, pads(node)
    elif len(tensor.shape) == 2:
        weight = tensor.numpy()
        axis = 0 if graph.attribute_int(node, "transA", 0) else axis
        rows = (weight if graph.attribute_int(node, "transB", 0) else weight.T)[:, :, None]
    else:
        return np.zeros(0, bool)
    needless, bounds = unread(rows), known.get(data)
    if bounds is not None and len(bounds.along(axis)[0]) in {1, len(needless)}:
        numbers = bounds.constants(axis, len(needless))
        needless |= (numbers == 0) if only_zero else ~np.isnan(numbers)
    return needless


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
        align: A size that is a multiple of this, or of a divisor of it, stays one.
        skipped: Channels that are constant or unread and stay, with the reason.
    """

    found: Dependencies
    bounds: Mapping[ir.Value, Bounds]
    align: int
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
        """The atoms of the channels to remove: no axis loses all positions, or its alignment."""
        movable = {atom for group in channels_of(self.found).groups for atom in group.channels}
        staying: set[int] = set()
        while True:
            dead = self._dead(movable - staying)
            restored = self._restored(dead)
            if not restored:
                self._explain(movable, staying, dead)
                return dead
            staying |= restored

    def _dead(self, candidates: set[int]) -> frozenset[int]:
        """The largest set that follows from itself step by step: what only dead channels read is dead."""
        dead = np.zeros(0, np.int64)
        while True:
            needed = {atom for reader in self.readers for atom in reader.atoms[reader.needs(dead)].tolist()}
            found = np.array(sorted(candidates - needed), np.int64)
            if len(found) == len(dead):
                return frozenset(found.tolist())
            dead = found

    def _restored(self, dead: frozenset[int]) -> set[int]:
        """Channels that stay although they are dead, so that no axis is empty, or of a size that kernels like less."""
        kept = Kept(self.found.atoms, dead)
        restored: set[int] = set()
        for axes in self.found.labels.values():
            for labels in axes.values():
                gone = ~kept.mask(labels)
                unit = math.gcd(len(labels), self.align)
                count = int(np.count_nonzero(gone))
                surplus = unit if count == len(labels) else count % unit
                if surplus:
                    restored.update(self.found.atoms.roots(labels[gone][-surplus:]).tolist())
        return restored

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
                    unit = math.gcd(len(reader.atoms), self.align)
                    why = f"the width stays a multiple of {unit}" if unit > 1 else "one channel has to stay"
                elif atom in movable:
                    why = "another node needs it"
                else:
                    why = "it has to stay" if atom == FIXED else self.found.atoms.why_kept(atom) or "it is in no group"
                counts[graph.label(reader.consumer.node), why] += 1
        self.skipped += [
            Skip(node, f"{count} of its input channels are constant or unread: {why}")
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
