"""Let Slice and Split hand on the parts that a Concat joined."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.concat import Joined, read_concat
from modelopt.patterns.rewriter import Rewrite
from modelopt.patterns.slice import read_slice


class CancelConcat(RewritePass):
    """Let Slice and Split hand on the parts that a Concat joined.

    A Slice of the joined axis, with step 1, that begins where a part begins and ends where it ends, is that part. A
    Split of that axis into the sizes of the parts gives the parts. The sizes of the parts up to there have to be known.
    What joins the parts of a Split, or Slices, again is for merge-concat.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Slice or Split behind the Concat."""
        if not graph.is_standard(node, "Slice") and not graph.is_standard(node, "Split"):
            return match.NOT_HERE
        concat = match.producer(node.inputs[0], "Concat")
        joined = None if concat is None else read_concat(concat, opset)
        if concat is None or joined is None:
            return match.NOT_HERE
        parts = _slice(node, joined, opset) if node.op_type == "Slice" else _split(node, joined, opset)
        if isinstance(parts, Mismatch):
            return parts
        for output, part in zip(node.outputs, parts, strict=True):
            if reason := graph.can_replace(output, part):
                return Mismatch(reason)
        outputs = [output for output in node.outputs if output.is_graph_output()]
        if len({parts[node.outputs.index(output)] for output in outputs}) != len(outputs):
            return Mismatch("two graph outputs would become one value")
        return partial(_hand_on, node, parts)


def _slice(node: ir.Node, joined: Joined, opset: int) -> list[ir.Value] | Mismatch:
    cuts = read_slice(node, opset)
    if isinstance(cuts, Mismatch):
        return cuts
    cut = cuts[0].counted_in(graph.rank(node.inputs[0]))
    if len(cuts) != 1 or cut.axis != joined.axis or cut.step != 1:
        return Mismatch("it does not cut the axis that is joined alone, with step 1")
    start, end = cut.start, cut.end
    if joined.size is not None:
        start, end = (bound + joined.size if bound < 0 else min(bound, joined.size) for bound in (start, end))
    found = [span.part for span in joined.spans if (span.start, span.end) == (start, end) and start < end]
    return found or Mismatch("it does not take exactly one part of known place")


def _split(node: ir.Node, joined: Joined, opset: int) -> list[ir.Value] | Mismatch:
    axis, rank = graph.attribute_int(node, "axis", 0), graph.rank(node.inputs[0])
    if axis + (rank or 0) * (axis < 0) != joined.axis or joined.size is None:
        return Mismatch("it splits another axis, or the sizes of the parts are not known")
    sizes = _sizes(node, joined.size, opset)
    if sizes != tuple(span.end - span.start for span in joined.spans):
        return Mismatch("it does not split where the parts were joined")
    return [span.part for span in joined.spans]


def _sizes(node: ir.Node, size: int, opset: int) -> tuple[int, ...] | None:
    """How large the outputs of a Split are: an attribute below opset 13, then an input, else all the same."""
    given = node.inputs[1] if opset >= 13 and len(node.inputs) > 1 else None
    if given is not None:
        return graph.constant_ints(given)
    attribute = graph.attribute_ints(node, "split") if opset < 13 else None
    if attribute is not None:
        return attribute
    count = len(node.outputs)
    return (size // count,) * count if size % count == 0 else None


def _hand_on(node: ir.Node, parts: list[ir.Value]) -> None:
    for output, part in zip(list(node.outputs), parts, strict=True):
        graph.replace_value(output, part)
