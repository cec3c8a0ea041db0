"""Merge Concat of Concat, and undo Split or Slice where Concat puts the parts together again."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.operators import TO_THE_END
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite
from modelopt.patterns.slice import read_slice


class MergeConcat(RewritePass):
    """Merge Concat of Concat along one axis, and remove a Concat of all the parts of a Split, or of Slices.

    - ``[[a, b], c] = [a, b, c]`` along the same axis. Nested chains copy the first parts again and again, merged they
      are copied once. Where others use the inner one too, both would be computed: refused.
    - Concat of all outputs of one Split, in order and along its axis, is the Split's input.
    - Concat of Slices of one value along its axis, with step 1, the first from 0, each from where the one before ends,
      and the last to the end, is that value.

    Parts that others use stay; what is left without users is removed.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the outer Concat."""
        if not graph.is_standard(node, "Concat") or len(node.inputs) < 2:
            return match.NOT_HERE
        whole = _whole(node, opset)
        if isinstance(whole, ir.Value):
            reason = graph.can_replace(node.outputs[0], whole)
            return Mismatch(reason) if reason else partial(graph.replace_value, node.outputs[0], whole)
        refusal = whole
        for part in node.inputs:
            inner = match.producer(part, "Concat")
            if inner is None:
                continue
            reason = _why_not_merge(node, inner, opset)
            if reason is None:
                return partial(_merge, node, inner)
            refusal = Mismatch(reason)
        return refusal


def _axis(node: ir.Node, opset: int) -> int | None:
    """The axis, counted from the front where the rank is known."""
    axis = graph.attribute_int(node, "axis", 1 if opset < 4 else 0)
    ranks = [graph.rank(value) for value in (*node.inputs, *node.outputs)]
    rank = next((rank for rank in ranks if rank is not None), None)
    return axis + rank if axis < 0 and rank is not None else axis


def _why_not_merge(node: ir.Node, inner: ir.Node, opset: int) -> str | None:
    if _axis(node, opset) != _axis(inner, opset):
        return "the two do not join the same axis"
    if inner.graph is not node.graph:
        return f"{graph.label(inner)} is in an outer scope"
    if graph.sole_consumer(inner.outputs[0]) is None:
        return f"{graph.label(inner)} has to stay: {graph.why_not_sole(inner.outputs[0])}"
    return None


def _merge(node: ir.Node, inner: ir.Node) -> None:
    parts = [part for value in node.inputs for part in (inner.inputs if value is inner.outputs[0] else (value,))]
    node.resize_inputs(len(parts))
    for index, part in enumerate(parts):
        node.replace_input_with(index, part)


def _whole(node: ir.Node, opset: int) -> ir.Value | Mismatch:
    """The value of which `node` joins all the parts."""
    producers = [None if value is None else value.producer() for value in node.inputs]
    first = producers[0]
    if first is None:
        return match.NOT_HERE
    if graph.is_standard(first, "Split"):
        return _split(node, first, opset)
    if any(part is None or not graph.is_standard(part, "Slice") for part in producers):
        return match.NOT_HERE
    return _sliced(node, [part for part in producers if part is not None], opset)


def _split(node: ir.Node, split: ir.Node, opset: int) -> ir.Value | Mismatch:
    if list(node.inputs) != list(split.outputs) or split.inputs[0] is None:
        return match.NOT_HERE
    axis, rank = graph.attribute_int(split, "axis", 0), graph.rank(split.inputs[0])
    if _axis(node, opset) != (axis + rank if axis < 0 and rank is not None else axis):
        return Mismatch("it joins another axis than was split")
    return split.inputs[0]


def _sliced(node: ir.Node, parts: list[ir.Node], opset: int) -> ir.Value | Mismatch:
    source, at = parts[0].inputs[0], 0
    axis, rank = _axis(node, opset), graph.rank(source)
    if source is None or axis is None or any(part.inputs[0] is not source for part in parts):
        return match.NOT_HERE
    for part in parts:
        found = read_slice(part, opset)
        if isinstance(found, Mismatch):
            return found
        if len(found) != 1 or found[0].counted_in(rank).axis != axis or found[0].step != 1:
            return Mismatch("a slice is not of the axis that is joined alone")
        if found[0].start != at or at == TO_THE_END:
            return Mismatch("the slices do not follow one another")
        at = min(found[0].end, TO_THE_END)
        if at < found[0].start:
            return Mismatch("a slice ends counted from the end")
    dim = source.shape[axis] if source.shape is not None and 0 <= axis < len(source.shape) else None
    if at in {TO_THE_END, dim}:
        return source
    return Mismatch("the slices are not known to reach the end")
