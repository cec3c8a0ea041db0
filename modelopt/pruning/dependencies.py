"""Which axes of which tensors must shrink together, found by following labels through the graph.

`analyse` goes through the nodes of the main graph in order. A rule for each operator says how the labels of its inputs
become those of its outputs, which weights multiply along a labelled axis, and what must be edited when atoms go. What
has no rule keeps all that it reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim
from modelopt.graph.types import FLOATS
from modelopt.pruning.atoms import FIXED, Atoms

OPEN_SIZE = 1_000_001
"""Sizes above this stand for open axes, see `Dependencies.shape`."""

Labels = np.ndarray
"""One atom a position of an axis: int64, shape (size of the axis,)."""


class Unproven(Exception):
    """A rule cannot say what follows for a node; its text says why. All that the node reads must stay."""


@dataclass(frozen=True)
class Consumer:
    """A node that sums over a labelled axis of its input, with the weights that it multiplies by.

    Attributes:
        node: The node.
        data: The value that it sums over.
        data_axis: The axis of `data`.
        weight: The constant that it multiplies by.
        weight_axis: The axis of `weight` that meets `data_axis`, position by position.
    """

    node: ir.Node
    data: ir.Value
    data_axis: int
    weight: ir.Value
    weight_axis: int


@dataclass(frozen=True)
class Producer:
    """A node that makes the positions of a labelled axis, each from its own part of the weights.

    Attributes:
        node: The node.
        weight: The constant whose parts make them.
        weight_axis: The axis of `weight` with one part a position.
        bias: The constant that is added, with one number a position on its last axis; None without.
    """

    node: ir.Node
    weight: ir.Value
    weight_axis: int
    bias: ir.Value | None = None


@dataclass
class Kept:
    """Which atoms stay, for edits of nodes.

    Attributes:
        atoms: All atoms.
        removed: The roots of those that go.
    """

    atoms: Atoms
    removed: frozenset[int]

    def mask(self, labels: Labels) -> np.ndarray:
        """Whether each position stays: bool, same shape."""
        gone = np.array(sorted(self.removed), np.int64)
        return ~np.isin(self.atoms.roots(labels), gone)

    def count(self, labels: Labels) -> int:
        """How many positions stay."""
        return int(np.count_nonzero(self.mask(labels)))


Edit = Callable[[Kept, graph.NameSource], None]
"""Changes a node for what stays; called before constants shrink, and only where some of its atoms go."""


@dataclass
class Dependencies:
    """What `analyse` finds.

    Attributes:
        atoms: The atoms of all labels.
        labels: By value and axis, the labels; an axis without an entry stays as it is.
        consumers: The nodes that sum over labelled axes.
        producers: The nodes that make them.
        heads: Labels of axes whose positions are heads of an attention.
        reading: The node whose rule is at work.
    """

    atoms: Atoms = field(default_factory=Atoms)
    labels: dict[ir.Value, dict[int, Labels]] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    producers: list[Producer] = field(default_factory=list)
    heads: list[Labels] = field(default_factory=list)
    reading: ir.Node | None = None
    _edits: list[tuple[Labels, Edit]] = field(default_factory=list)
    _primes: dict[str, int] = field(default_factory=dict)
    _last_prime: int = OPEN_SIZE
    _claims: dict[tuple[ir.Value, int], set[ir.Node | None]] = field(default_factory=dict)

    def of(self, value: ir.Value | None, axis: int) -> Labels | None:
        """The labels of an axis, None where it stays as it is; a stored float tensor gets new ones when first asked."""
        if value is None:
            return None
        known = self.labels.setdefault(value, {})
        if axis not in known:
            tensor = graph.constant_tensor(value)
            if tensor is None or tensor.dtype not in FLOATS or axis >= len(tensor.shape):
                return None
            known[axis] = self.atoms.new(tensor.shape.numpy()[axis])
        self._claims.setdefault((value, axis), set()).add(self.reading)
        return known[axis]

    def keep_unclaimed(self) -> None:
        """Let the axes of constants stay that some reader did not ask for: it would not follow when they shrink."""
        for value, axes in self.labels.items():
            if graph.constant_tensor(value) is None:
                continue
            for axis, labels in axes.items():
                claims = self._claims.get((value, axis), set())
                other = next((node for node, _ in value.uses() if node not in claims), None)
                if other is not None:
                    self.atoms.keep(labels, f"{graph.label(other)} reads '{value.name}' too, and cannot follow")

    def axes(self, value: ir.Value | None) -> Mapping[int, Labels]:
        """The labelled axes of a value that some node makes."""
        return {} if value is None else self.labels.get(value, {})

    def put(self, value: ir.Value, axis: int, labels: Labels | None) -> None:
        """Say what the labels of an axis of a node's output are; None leaves it as it is."""
        if labels is not None:
            self.labels.setdefault(value, {})[axis] = labels

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The sizes of all axes; an open one has a large prime number, the same for the same name.

        So products of sizes are equal only where they are made of the same axes.

        Raises:
            Unproven: The rank is not known.
        """
        dims = graph.dims(value)
        if dims is None:
            raise Unproven(f"the shape of '{'' if value is None else value.name}' is not known")
        return tuple(dim if isinstance(dim, int) and dim >= 0 else self._prime(dim) for dim in dims)

    def _prime(self, dim: Dim) -> int:
        if not isinstance(dim, str):
            return self._next_prime()
        if dim not in self._primes:
            self._primes[dim] = self._next_prime()
        return self._primes[dim]

    def _next_prime(self) -> int:
        self._last_prime = next(
            number
            for number in itertools.count(self._last_prime + 2, 2)
            if all(number % factor for factor in range(3, math.isqrt(number) + 1, 2))
        )
        return self._last_prime

    def edit(self, labels: Labels, change: Edit) -> None:
        """Register what to change in a node when some of these atoms go."""
        self._edits.append((labels, change))

    def edits(self, kept: Kept) -> list[Edit]:
        """The registered changes that are needed, in the order of the nodes."""
        return [change for labels, change in self._edits if not kept.mask(labels).all()]

    def keep(self, value: ir.Value | None, why: str, axis: int | None = None) -> None:
        """Let all labelled axes of a value, or one of them, stay."""
        for each, labels in self.axes(value).items():
            if axis is None or each == axis:
                self.atoms.keep(labels, why)

    def unite(self, first: Labels | None, second: Labels | None, why_fixed: str) -> Labels | None:
        """The labels of an axis that two tensors share: their atoms become one; beside an axis that stays they stay."""
        if first is None or second is None:
            only = first if second is None else second
            if only is not None:
                self.atoms.keep(only, why_fixed)
            return None
        self.atoms.unite(first, second, why_fixed)
        return np.where(second == FIXED, FIXED, first)


Rule = Callable[[ir.Node, Dependencies], None]


def analyse(model: ir.Model, rules: Mapping[tuple[str, str], Rule]) -> Dependencies:
    """The dependencies between the axes of a model's tensors.

    Args:
        model: The model, with the shapes of its values (see `consteval.known_shapes`); it is not changed.
        rules: By domain ("" for ONNX's own) and operator.
    """
    found = Dependencies()
    for node in model.graph:
        found.reading = node
        _follow(node, found, rules)
    found.keep_unclaimed()
    for value in model.graph.outputs:
        found.keep(value, f"'{value.name}' is an output of the model")
    return found


def _follow(node: ir.Node, found: Dependencies, rules: Mapping[tuple[str, str], Rule]) -> None:
    for body in graph.bodies(node):
        why = f"a body of {node.op_type} reads it"
        for inner in graph.nodes_below(body):
            for value in inner.inputs:
                found.keep(value, why)
    domain = "" if node.domain in graph.STANDARD_DOMAINS else node.domain
    rule = rules.get((domain, node.op_type))
    try:
        if rule is None:
            raise Unproven(f"there is no rule for {node.op_type}")
        rule(node, found)
    except Unproven as reason:
        for value in node.inputs:
            found.keep(value, f"{reason} ({graph.label(node)})")
        for value in node.outputs:
            found.labels.pop(value, None)
