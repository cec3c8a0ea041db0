"""Which axes of which tensors must shrink together, found by following labels through the graph.

`analyse` goes through the nodes of the main graph in order. A rule for each operator says how the labels of its inputs
become those of its outputs, which weights multiply along a labelled axis, and what must be edited when atoms go. What
has no rule keeps all that it reads.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim
from modelopt.graph.types import FLOATS
from modelopt.pruning import learned_shapes
from modelopt.pruning.atoms import FIXED, Atoms
from modelopt.pruning.constant_chains import why_foldable
from modelopt.pruning.unproven import Unproven, require, require_inputs
from modelopt.pruning.weight_axes import Consumer, Producer

OPEN_SIZE = 1_000_001
"""Sizes above this stand for open axes, see `Dependencies.shape`."""

SIZES = -1
"""Stands for the integers of a value where claims are by axis."""

SMALL_BYTES = 4096
"""Constants of sizes are not larger."""

Labels = np.ndarray
"""One atom a position of an axis: int64, shape (size of the axis,)."""


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


@dataclass(frozen=True, eq=False)
class AxisSize:
    """An integer that is the size of a labelled axis, whatever it is: what Shape reads.

    Attributes:
        labels: Those of the axis.
    """

    labels: Labels


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
        opset: The version of the standard operators.
        unproven: By reason, how many nodes let all stay that they read.
        sizes: By value of integers, what they are: objects `AxisSize`, or None for what no labelled axis has a part in.
    """

    atoms: Atoms = field(default_factory=Atoms)
    labels: dict[ir.Value, dict[int, Labels]] = field(default_factory=dict)
    consumers: list[Consumer] = field(default_factory=list)
    producers: list[Producer] = field(default_factory=list)
    heads: list[Labels] = field(default_factory=list)
    reading: ir.Node | None = None
    opset: int = 0
    sizes: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    unproven: Counter[str] = field(default_factory=Counter)
    _edits: list[tuple[Labels, Edit]] = field(default_factory=list)
    _learned: dict[ir.Value, tuple[Dim, ...]] = field(default_factory=dict)
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

    def sizes_of(self, value: ir.Value | None) -> np.ndarray | None:
        """What the integers of a value are: an array of `AxisSize`, int (of a constant) and None; None where not known.

        Who asks must follow: all other readers of a size of a labelled axis let that axis stay.
        """
        if value is None:
            return None
        known = self.sizes.get(value)
        if known is not None:
            self._claims.setdefault((value, SIZES), set()).add(self.reading)
            return known
        array = graph.constant(value, max_bytes=SMALL_BYTES)
        return None if array is None or array.dtype.kind not in "iu" else array.astype(object)

    def keep_sizes(self, value: ir.Value | None, why: str) -> None:
        """Let all axes stay whose sizes are among the integers of a value."""
        known = None if value is None else self.sizes.get(value)
        for size in () if known is None else known.flat:
            if isinstance(size, AxisSize):
                self.atoms.keep(size.labels, why)

    def keep_unclaimed(self) -> None:
        """Let the axes of constants stay that some reader did not ask for: it would not follow when they shrink."""
        for value in self.sizes:
            claims = self._claims.get((value, SIZES), set())
            for reader in (node for node, _ in value.uses() if node not in claims):
                self.keep_sizes(value, f"{reader.op_type} computes with its size")
        for value, axes in self.labels.items():
            if graph.constant_tensor(value) is None:
                continue
            for axis, labels in axes.items():
                claims = self._claims.get((value, axis), set())
                other = next((node for node, _ in value.uses() if node not in claims), None)
                if other is not None:
                    self.atoms.keep(labels, f"{other.op_type} reads the same weights, and cannot follow")

    def keep_lone(self) -> None:
        """Let atoms stay that are all of an axis: without them it would be empty."""
        for axes in self.labels.values():
            for labels in axes.values():
                roots = self.atoms.roots(labels)
                if roots.size and (roots == roots[0]).all():
                    self.atoms.keep(roots[:1], "it is all that an axis has")

    def axes(self, value: ir.Value | None) -> Mapping[int, Labels]:
        """The labelled axes of a value that some node makes."""
        return {} if value is None else self.labels.get(value, {})

    def put(self, value: ir.Value, axis: int, labels: Labels | None) -> None:
        """Say what the labels of an axis of a node's output are; None leaves it as it is, another size is Unproven."""
        if labels is None:
            return
        dims = self.dims(value)
        if dims is not None:
            require(axis < len(dims) and (not isinstance(dims[axis], int) or dims[axis] in {len(labels), -1}))
        self.labels.setdefault(value, {})[axis] = labels

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """The dimensions of a value, those that were learned too; None where even their number is not known."""
        known, learned = graph.dims(value), None if value is None else self._learned.get(value)
        if known is None or learned is None or len(known) != len(learned):
            return learned if known is None else known
        return tuple(mine if isinstance(mine, int) else theirs for mine, theirs in zip(known, learned, strict=True))

    def learn(self, node: ir.Node) -> None:
        """Find sizes of the outputs of a node where inference found none."""
        if all(graph.static_shape(value) is not None for value in node.outputs):
            return
        for value, shape in zip(node.outputs, learned_shapes.learned(node, self.dims), strict=False):
            if shape is not None:
                self._learned[value] = shape

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The sizes of all axes; an open one has a large prime number, the same for the same name.

        So products of sizes are equal only where they are made of the same axes.

        Raises:
            Unproven: The rank is not known.
        """
        dims = self.dims(value)
        if dims is None:
            raise Unproven("a shape is not known")
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
        require(len(first) == len(second))
        self.atoms.unite(first, second, why_fixed)
        return np.where(second == FIXED, FIXED, first)


Rule = Callable[[ir.Node, Dependencies], None]


def analyse(model: ir.Model, rules: Mapping[tuple[str, str], Rule]) -> Dependencies:
    """The dependencies between the axes of a model's tensors.

    Args:
        model: The model, with the shapes of its values (see `consteval.known_shapes`); it is not changed.
        rules: By domain ("" for ONNX's own) and operator.
    """
    found = Dependencies(opset=graph.standard_version(model.opset_imports))
    functions = {(domain, name) for domain, name, *_ in model.functions}
    for node in model.graph:
        found.reading = node
        _follow(node, found, rules, is_function=(node.domain, node.op_type) in functions)
    found.keep_unclaimed()
    for value in model.graph.outputs:
        found.keep(value, "it is an output of the model")
        found.keep_sizes(value, "its size is an output of the model")
    found.keep_lone()
    return found


def _follow(node: ir.Node, found: Dependencies, rules: Mapping[tuple[str, str], Rule], *, is_function: bool) -> None:
    for body in graph.bodies(node):
        why = f"a body of {node.op_type} reads it"
        for scope in graph.with_bodies(body):
            for value in (*(value for inner in scope for value in inner.inputs), *scope.outputs):
                found.keep(value, why)
                found.keep_sizes(value, why)
    domain = "" if node.domain in graph.STANDARD_DOMAINS else node.domain
    rule = rules.get((domain, node.op_type))
    counts = len(found.consumers), len(found.producers)
    try:
        require_inputs(node)
        found.learn(node)
        if is_function or graph.bodies(node):
            raise Unproven("it is a function" if is_function else "it has a body")
        if rule is None:
            raise Unproven("there is no rule for it")
        rule(node, found)
    except Unproven as reason:
        if any(found.axes(value) or why_foldable(value) for value in node.inputs):
            found.unproven[f"{node.op_type}: {reason}"] += 1
        for value in node.inputs:
            found.keep(value, f"{node.op_type}: {reason}")
            found.keep_sizes(value, f"{node.op_type}: {reason}")
        del found.consumers[counts[0] :], found.producers[counts[1] :]
        for value in node.outputs:
            found.labels.pop(value, None)
            found.sizes.pop(value, None)
