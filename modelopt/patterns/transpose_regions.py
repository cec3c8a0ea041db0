"""Which nodes to run on axes in another order, so that fewer transpositions are left around them.

The source of a value is the value before the Transpose nodes that make it. A region is a set of nodes that run on axes
in another order: on inputs as they are before a Transpose. Each use of a source by an operator needs the source under
one permutation, the product of three: the one that the source's own node leaves out when it is in the region, those of
the Transpose nodes between, and the inverse of the one that the user leaves out. Where the product is the identity no
Transpose is needed. Otherwise a source needs one Transpose for each distinct product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.patterns import runtime_kernels as protected
from modelopt.patterns.permutations import Perm, compose, inverse, perm_of
from modelopt.patterns.transpose_axes import Moved, on_other_axes

MAX_NODES = 300
"""More are not looked at from one Transpose."""

Cost = tuple[int, int]
"""Transpositions, and the elements that they move; these are 0 where a size is not known."""


@dataclass(frozen=True)
class Use:
    """One use of a source.

    Attributes:
        node: Who uses it; None for the graph, as an output.
        index: The position among the inputs of `node`.
        value: What is used: the source itself, or the output of a Transpose of it.
        between: The Transpose nodes between, as one permutation; None where there is none.
    """

    node: ir.Node | None
    index: int
    value: ir.Value
    between: Perm | None


@dataclass
class TransposeRegion:
    """Nodes that might work on axes in another order.

    Attributes:
        scope: The graph that they are in.
        moved: For each node, how it runs on them.
        blockers: Why further nodes do not belong to it, as clauses.
    """

    scope: ir.Graph | ir.Function
    moved: dict[ir.Node, Moved] = field(default_factory=dict)
    blockers: list[str] = field(default_factory=list)
    _uses: dict[ir.Value, tuple[Use, ...]] = field(default_factory=dict)

    # Which nodes belong to it

    def grow(self, names: graph.NameSource, first: ir.Node, perm: Perm, opset: int) -> None:
        """Add the nodes that read the Transpose `first`, those behind them, and those that make their other inputs."""
        waiting = [(node, perm) for node in _users(first.outputs[0])]
        ranks = {first.outputs[0]: len(perm)}
        while waiting and len(self.moved) < MAX_NODES:
            node, taken = waiting.pop(0)
            if node in self.moved or graph.is_standard(node, "Transpose") or node.graph is not self.scope:
                continue
            moved = on_other_axes(names, node, taken, opset, ranks)
            if isinstance(moved, Mismatch):
                self.blockers.append(moved.reason)
                continue
            self.moved[node] = moved
            for value in node.outputs:
                ranks[value] = len(moved.behind)
                waiting += [(user, moved.behind) for user in _users(value)]
            for index in moved.carried:
                carried = node.inputs[index]
                before = None if carried is None else carried.producer()
                if before is not None and before.graph is self.scope:
                    found = on_other_axes(names, before, taken, opset, ranks)
                    if isinstance(found, Moved) and found.behind == taken:
                        waiting.append((before, taken))

    def groups(self, opset: int) -> list[frozenset[ir.Node]]:
        """The nodes that go together: single ones, and the patterns that onnxruntime fuses; broken ones are taken out.

        Normalizations are fused along the last axis only.
        """
        found: dict[frozenset[ir.Node], None] = {}
        for node in list(self.moved):
            pattern = protected.pattern_of(node, opset)
            group = frozenset({node}) if pattern is None else pattern.nodes
            along_last = pattern is not None and pattern.by_last_axis
            whole = group <= self.moved.keys() and len({self.moved[each].perm for each in group}) == 1
            if whole and not (along_last and self.moved[node].perm[-1] != len(self.moved[node].perm) - 1):
                found[group] = None
        kept = {node for group in found for node in group}
        self.moved = {node: moved for node, moved in self.moved.items() if node in kept}
        return list(found)

    # What a choice of its nodes costs

    def sources(self, nodes: frozenset[ir.Node] | set[ir.Node]) -> dict[ir.Value, None]:
        """The sources of the inputs and outputs of these nodes."""
        found: dict[ir.Value, None] = {}
        for node in nodes:
            for index in self.moved[node].carried:
                value = node.inputs[index]
                if value is not None:
                    found[source_of(value, self.scope)] = None
            found |= dict.fromkeys(node.outputs)
        return found

    def cost(self, chosen: set[ir.Node], sources: dict[ir.Value, None]) -> Cost:
        """What these sources cost when the nodes `chosen` work on axes in another order."""
        count = elements = 0
        for source in sources:
            shape = graph.static_shape(source)
            needed = {self.needed(source, use, chosen) for use in self.uses(source)} - {None}
            count += len(needed)
            elements += len(needed) * math.prod(shape or ())
        return count, elements

    def needed(self, source: ir.Value, use: Use, chosen: set[ir.Node]) -> Perm | None:
        """The permutation of `source` that `use` needs; None where it needs none."""
        producer = source.producer()
        steps = [self.moved[producer].behind] if producer is not None and producer in chosen else []
        steps += [] if use.between is None else [use.between]
        if use.node is not None and use.node in chosen and use.index in self.moved[use.node].carried:
            steps.append(inverse(self.moved[use.node].perm))
        if not steps:
            return None
        found = compose(*steps)
        return None if found == tuple(range(len(found))) else found

    def uses(self, source: ir.Value) -> tuple[Use, ...]:
        """The uses of a source that are no Transpose."""
        if source not in self._uses:
            self._uses[source] = tuple(self._walk(source, None))
        return self._uses[source]

    def _walk(self, value: ir.Value, between: Perm | None) -> Iterator[Use]:
        if value.is_graph_output():
            yield Use(None, 0, value, between)
        for use in value.uses():
            perm = perm_of(use.node) if use.node.graph is self.scope else None
            if perm is None:
                yield Use(use.node, use.idx, value, between)
            else:
                yield from self._walk(use.node.outputs[0], perm if between is None else compose(between, perm))

    def sizes_are_known(self, sources: dict[ir.Value, None]) -> bool:
        """Whether elements can be counted."""
        return all(graph.static_shape(source) is not None for source in sources)


def source_of(value: ir.Value, scope: ir.Graph | ir.Function) -> ir.Value:
    """What is left of `value` when the Transpose nodes of `scope` before it are taken away."""
    node = value.producer()
    while node is not None and node.graph is scope and perm_of(node) is not None and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def best(region: TransposeRegion, groups: list[frozenset[ir.Node]]) -> set[ir.Node] | None:
    """The nodes of `region` that save most; None where no choice saves a transposition, or elements of one.

    It starts with all of them and takes out, one after the other, those without which the cost is no higher: so no
    node moves that need not.
    """
    every = region.sources(set(region.moved))
    counted = region.sizes_are_known(every)

    def cost(chosen: set[ir.Node], sources: dict[ir.Value, None]) -> Cost:
        count, elements = region.cost(chosen, sources)
        return count, elements if counted else 0

    chosen = set(region.moved)
    changed = True
    while changed:
        changed = False
        for group in groups:
            if not group <= chosen:
                continue
            near = region.sources(group)
            if cost(chosen - group, near) <= cost(chosen, near):
                chosen -= group
                changed = True
    before, after = cost(set(), every), cost(chosen, every)
    return chosen if chosen and after < before and after[1] <= before[1] else None


def _users(value: ir.Value) -> Iterator[ir.Node]:
    yield from dict.fromkeys(use.node for use in value.uses())
