"""Merge two transpositions in a row into one, or into none."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite


class MergeTranspose(RewritePass):
    """Merge Transpose after Transpose into one, and remove both when they undo each other.

    Axis ``i`` of Transpose-1's output is axis ``perm[i]`` of its input, so for ``first`` then ``second`` it is axis
    ``first[second[i]]`` of the first input. Without `perm` the axes are reversed.

    Where others use the first one's output too it has to stay, and one transposition merely reads another input:
    that is refused, unless the two undo each other.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the second Transpose; longer chains fold from the front."""
        first = match.producer(node.inputs[0], "Transpose") if graph.is_standard(node, "Transpose") else None
        source = None if first is None else first.inputs[0]
        if first is None or source is None:
            return match.NOT_HERE
        perm = _composed(graph.attribute_ints(first, "perm"), graph.attribute_ints(node, "perm"))
        if perm is None:
            return Mismatch("the two permutations do not fit each other")
        if perm == tuple(range(len(perm))):
            reason = graph.can_replace(node.outputs[0], source)
            return Mismatch(reason) if reason else partial(graph.replace_value, node.outputs[0], source)
        if graph.sole_consumer(first.outputs[0]) is None:
            return Mismatch(f"the first transposition has to stay: {graph.why_not_sole(first.outputs[0])}")
        return partial(graph.become, node, "Transpose", [source], [ir.AttrInt64s("perm", perm)])


def _composed(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The permutation that does both; () when both reverse axes of an unknown rank; None when their ranks differ."""
    if first is None and second is None:
        return ()
    rank = len(first if first is not None else second or ())
    backwards = tuple(reversed(range(rank)))
    first, second = backwards if first is None else first, backwards if second is None else second
    if not sorted(first) == sorted(second) == list(range(rank)):
        return None
    return tuple(first[axis] for axis in second)
