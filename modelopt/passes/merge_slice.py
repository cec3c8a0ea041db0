"""Merge Slice of Slice."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite
from modelopt.patterns.slice import StaticSlice, read_slice

_INT64_MAX = 2**63 - 1

_MOST_READERS = 64
"""A Slice with more readers is left alone: each reader checks all of them, so the time grows with the square."""


class MergeSlice(RewritePass):
    """Merge Slice of Slice with constant bounds into one Slice.

    Cuts of different axes do not meet: the merged one has both. Of one axis, with step 1 and bounds that count from the
    front, ``(s₁:e₁)`` then ``(s₂:e₂)`` is ``(s₁ + s₂ : min(e₁, s₁ + e₂))``. A bound that counts from the end depends on
    the size in between; it and other steps are refused there.

    Where others than such pairs use the first one's output too, it would stay and the second copy as much as before:
    refused. So are axes that count from the end of an unknown rank.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the second Slice; longer chains fold from the front."""
        first = match.producer(node.inputs[0], "Slice") if graph.is_standard(node, "Slice") else None
        if first is None:
            return match.NOT_HERE
        merged = _cuts(first, node, opset)
        if isinstance(merged, Mismatch):
            return merged
        uses = first.outputs[0].uses()
        stays = first.outputs[0].is_graph_output() or len(uses) > _MOST_READERS
        if stays or not all(use.node is node or _goes_with(first, use.node, use.idx, opset) for use in uses):
            return Mismatch(f"{graph.label(first)} has to stay: {graph.why_not_sole(first.outputs[0])}")
        return partial(_merge, names, node, first, merged, opset)


def _goes_with(first: ir.Node, node: ir.Node, index: int, opset: int) -> bool:
    """Whether a reader of the first Slice is a Slice that can be merged with it, so that the first one goes."""
    is_slice = index == 0 and graph.is_standard(node, "Slice") and node.graph is first.graph
    return is_slice and not isinstance(_cuts(first, node, opset), Mismatch)


def _cuts(first: ir.Node, node: ir.Node, opset: int) -> list[StaticSlice] | Mismatch:
    """What `node` cuts of the input of `first`, whose output it reads."""
    inner, outer = read_slice(first, opset), read_slice(node, opset)
    if isinstance(inner, Mismatch):
        return inner
    if isinstance(outer, Mismatch):
        return outer
    ranks = [graph.rank(value) for value in (first.inputs[0], *first.outputs, *node.outputs)]
    rank = next((rank for rank in ranks if rank is not None), None)
    return _merged([[cut.counted_in(rank) for cut in cuts] for cuts in (inner, outer)])


def _merged(cuts: list[list[StaticSlice]]) -> list[StaticSlice] | Mismatch:
    for same in cuts:
        if len({cut.axis for cut in same}) != len(same):
            return Mismatch("one Slice cuts an axis twice")
    if any(cut.axis < 0 for same in cuts for cut in same):
        return Mismatch("an axis counts from the end of an unknown rank")
    by_axis = {cut.axis: cut for cut in cuts[0]}
    for second in cuts[1]:
        first = by_axis.get(second.axis)
        if first is None:
            by_axis[second.axis] = second
            continue
        if first.step != 1 or second.step != 1:
            return Mismatch(f"both cut axis {second.axis}, and not with step 1")
        if min(first.start, first.end, second.start, second.end) < 0:
            return Mismatch(f"both cut axis {second.axis}, and a bound counts from the end")
        start = min(first.start + second.start, _INT64_MAX)
        by_axis[second.axis] = StaticSlice(second.axis, start, min(first.end, first.start + second.end), 1)
    return [by_axis[axis] for axis in sorted(by_axis)]


def _merge(names: graph.NameSource, node: ir.Node, first: ir.Node, cuts: list[StaticSlice], opset: int) -> None:
    columns = {name: [getattr(cut, name.removesuffix("s")) for cut in cuts] for name in ("starts", "ends", "steps")}
    columns["axes"] = [cut.axis for cut in cuts]
    if opset < 10:
        attributes = [ir.AttrInt64s(name, columns[name]) for name in ("starts", "ends", "axes")]
        graph.become(node, "Slice", [first.inputs[0]], attributes)
    else:
        order = ("starts", "ends", "axes") if set(columns["steps"]) == {1} else ("starts", "ends", "axes", "steps")
        like = node.inputs[1]
        if like is None:
            raise ValueError(f"{graph.label(node)} has no starts")
        stem = node.outputs[0].name
        values = [
            graph.constant_beside(like, node, names(f"{stem}_{name}"), np.array(columns[name], np.int64))
            for name in order
        ]
        graph.become(node, "Slice", [first.inputs[0], *values])
