"""Merge two transpositions in a row into one, or into none."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass
from modelopt.patterns.rewriter import Rewrite, rewrite_nodes


class MergeTranspose(Pass):
    """Merge Transpose after Transpose into one, and remove both when they undo each other.

    Axis ``i`` of Transpose-1's output is axis ``perm[i]`` of its input, so for ``first`` then ``second`` it is axis
    ``first[second[i]]`` of the first input. Without `perm` the axes are reversed.

    Where others use the first one's output too it has to stay, and one transposition merely reads another input:
    that is refused, unless the two undo each other.
    """

    name: ClassVar[str] = "merge-transpose"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Merge every pair; longer chains fold from the front."""
        return rewrite_nodes(model, _rule)


def _rule(node: ir.Node, _opset: int) -> Rewrite | Mismatch:
    first = match.producer(node.inputs[0], "Transpose") if graph.is_standard(node, "Transpose") else None
    if first is None or first.inputs[0] is None:
        return match.NOT_HERE
    perm = _composed(graph.attribute_ints(first, "perm"), graph.attribute_ints(node, "perm"))
    if perm is None:
        return Mismatch("the two permutations do not fit each other")
    if perm == tuple(range(len(perm))):
        reason = graph.can_replace(node.outputs[0], first.inputs[0])
        return Mismatch(reason) if reason else partial(_remove, node, first)
    if graph.sole_consumer(first.outputs[0]) is None:
        return Mismatch(f"the first transposition has to stay: {graph.why_not_sole(first.outputs[0])}")
    return partial(_merge, node, first, perm)


def _composed(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The permutation that does both, () when both reverse axes that nobody counted, None when they do not fit."""
    if first is None and second is None:
        return ()
    rank = len(first if first is not None else second or ())
    backwards = tuple(reversed(range(rank)))
    first, second = backwards if first is None else first, backwards if second is None else second
    if not sorted(first) == sorted(second) == list(range(rank)):
        return None
    return tuple(first[axis] for axis in second)


def _remove(node: ir.Node, first: ir.Node) -> None:
    source = first.inputs[0]
    if source is not None:
        graph.replace_value(node.outputs[0], source)
    graph.remove_if_dead(node)
    graph.remove_if_dead(first)


def _merge(node: ir.Node, first: ir.Node, perm: tuple[int, ...]) -> None:
    graph.become(node, "Transpose", first.inputs, [ir.AttrInt64s("perm", perm)])
    graph.remove_if_dead(first)
