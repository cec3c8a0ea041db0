"""Run operators that work on any order of axes before a Transpose, where that saves Transpose nodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass
from modelopt.patterns.permutations import Perm, perm_of
from modelopt.patterns.rewriter import Rewrite, rewrite_nodes
from modelopt.patterns.transpose_regions import TransposeRegion, Use, best

Known = frozenset[tuple[ir.Node, Perm]]
"""A region: its nodes, each with the Transpose that would be taken away before its inputs."""


class SinkTranspose(Pass):
    """Run operators between transpositions on what is not transposed, where fewer transpositions are left.

    With ``x' = Transpose(x, perm)``, axis ``i`` of ``x'`` is axis ``perm[i]`` of ``x``, and the Transpose sinks:
    ``f(x') = Transpose(f(x), perm)`` for elementwise ``f``; ``x' + c = Transpose(x + c', perm)``, where ``c'`` is ``c``
    with ones put before its shape and transposed back; a reduction, Softmax, Slice, Pad, Split or Concat along axis
    ``i`` becomes one along ``perm[i]``, and an operator that takes axes away takes them out of ``perm`` too.

    A Transpose and the one that undoes it both go; an operand that is not transposed gets a Transpose the other way,
    and so does a value that another operator needs as it was. Nodes move only where fewer Transpose are left, or as
    many that move fewer elements: so it comes to an end. Nodes that onnxruntime fuses into one kernel move together,
    and a normalization only where its axis stays the last.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Look behind every Transpose."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model), set()))


def _rule(names: graph.NameSource, useless: set[Known], first: ir.Node, opset: int) -> Rewrite | Mismatch:
    """Look behind the Transpose `first`; `useless` are the regions that saved nothing since the last edit."""
    perm = perm_of(first)
    if perm is None or first.inputs[0] is None or first.graph is None:
        return match.NOT_HERE
    region = TransposeRegion(first.graph)
    region.grow(names, first, perm, opset)
    known = frozenset((node, moved.perm) for node, moved in region.moved.items())
    chosen = None if known in useless else best(region, region.groups(opset))
    if chosen is None:
        useless.add(known)
        blocker = next(iter(region.blockers), None)
        if known:
            return Mismatch("moving it would save no transposition" + (f": {blocker}" if blocker else ""))
        return match.NOT_HERE if blocker is None else Mismatch(blocker)
    return _why_not(region, chosen) or partial(_rewrite, names, useless, region, chosen)


def _why_not(region: TransposeRegion, chosen: set[ir.Node]) -> Mismatch | None:
    """Outputs of the graph keep their names: a value that became one must be able to take it over."""
    for source in region.sources(chosen):
        outputs = [use for use in region.uses(source) if use.node is None]
        plain = [use.value for use in outputs if region.needed(source, use, chosen) is None]
        if len(plain) > 1 or (plain and plain[0] is not source and source.producer() is None):
            return Mismatch("two graph outputs, or an input and an output, would become one value")
    return None


def _rewrite(names: graph.NameSource, useless: set[Known], region: TransposeRegion, chosen: set[ir.Node]) -> None:
    useless.clear()
    plans = [
        (source, [(use, region.needed(source, use, chosen)) for use in region.uses(source)])
        for source in region.sources(chosen)
    ]
    for node in region.moved:
        if node in chosen:
            _edit(region, node)
    for source, plan in plans:
        _rewire(names, region.scope, source, plan)


def _edit(region: TransposeRegion, node: ir.Node) -> None:
    moved = region.moved[node]
    for edit in moved.edits:
        edit()
    for value in node.outputs:
        if value.shape is not None and len(value.shape) == len(moved.behind):
            before = dict(zip(moved.behind, value.shape, strict=True))
            value.shape = ir.Shape([before[axis] for axis in range(len(before))])


def _rewire(
    names: graph.NameSource,
    scope: ir.Graph | ir.Function,
    source: ir.Value,
    plan: list[tuple[Use, Perm | None]],
) -> None:
    """Give each use of `source` what it needs, by one Transpose for each permutation, and drop those of before."""
    made: dict[Perm, ir.Value] = {}
    old = [node for use, _ in plan for node in _between(source, use.value)]
    for use, perm in plan:
        if use.node is None and perm is not None:
            made.setdefault(perm, _as_output(names, scope, source, use.value, perm))
    for use, perm in plan:
        if use.node is None and perm is None and use.value is not source:
            graph.replace_value(use.value, source)
    for use, perm in plan:
        if use.node is not None:
            if perm is not None and perm not in made:
                made[perm] = _transposed(names, scope, source, perm)
            use.node.replace_input_with(use.index, source if perm is None else made[perm])
    while [node for node in dict.fromkeys(old) if node.graph is not None and graph.remove_if_dead(node)]:
        pass


def _as_output(
    names: graph.NameSource, scope: ir.Graph | ir.Function, source: ir.Value, output: ir.Value, perm: Perm
) -> ir.Value:
    """The graph output `output` as `source` transposed by `perm`; its name stays."""
    producer = output.producer()
    if output is not source and producer is not None:
        graph.become(producer, "Transpose", [source], [ir.AttrInt64s("perm", perm)])
        scope.remove(producer)
        _insert(scope, source, producer)  # others may read it, before where it stood
        return output
    declared, name = source.shape, source.name
    made = _transposed(names, scope, source, perm)
    node = made.producer()
    graph.replace_value(source, made)
    if node is not None:
        node.replace_input_with(0, source)
    source.name = names(f"{name}_moved")
    source.shape = declared
    made.shape = _shape(source, perm)
    return made


def _transposed(names: graph.NameSource, scope: ir.Graph | ir.Function, source: ir.Value, perm: Perm) -> ir.Value:
    name = names(f"{source.name}_transposed")
    value = ir.Value(name=name, shape=_shape(source, perm), type=source.type)
    node = ir.Node("", "Transpose", [source], [ir.AttrInt64s("perm", perm)], outputs=[value], name=name)
    _insert(scope, source, node)
    return value


def _insert(scope: ir.Graph | ir.Function, source: ir.Value, node: ir.Node) -> None:
    """Insert `node` right behind the node that makes `source`."""
    producer = source.producer()
    if producer is not None and producer.graph is scope:
        scope.insert_after(producer, node)
    else:
        scope.insert_before(scope[0], node)


def _shape(source: ir.Value, perm: Perm) -> ir.Shape | None:
    return None if source.shape is None else ir.Shape([source.shape[axis] for axis in perm])


def _between(source: ir.Value, value: ir.Value) -> Iterator[ir.Node]:
    """The Transpose nodes that make `value` of `source`, the last one first."""
    while value is not source and (node := value.producer()) is not None and node.inputs[0] is not None:
        yield node
        value = node.inputs[0]
