"""Let a Gather with constant indices read what it gathers from where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.concat import read_concat
from modelopt.patterns.rewriter import Rewrite
from modelopt.patterns.rotary import axes_of

_MAX_BYTES = 2**20


class FoldGather(RewritePass):
    """Let a Gather with constant indices read what it gathers from where that comes from.

    Along one axis, for constant indices ``i`` (fold-constants takes those of constants, and of known shapes):

    - ``gather(gather(x, j), i)`` is ``gather(x, j[i])`` for a constant vector ``j``;
    - ``gather(concat(…, p, …), i)`` is ``gather(p, i - start of p)`` where all of ``i`` lie in one part of known place,
      and ``p`` itself where they are all of it in order;
    - ``gather(unsqueeze(x), 0)`` is ``x``.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Gather with constant indices."""
        taken = _read(node)
        source = None if taken is None else taken.data.producer()
        if taken is None or source is None or source.domain not in graph.STANDARD_DOMAINS:
            return match.NOT_HERE
        if source.op_type == "Gather":
            return _of_gather(names, taken, source)
        if source.op_type == "Concat":
            return _of_concat(names, taken, source, opset)
        return _of_unsqueeze(taken, source, opset) if source.op_type == "Unsqueeze" else match.NOT_HERE


@dataclass(frozen=True)
class _Taken:
    """What a Gather takes: its indices, and its axis counted from the front."""

    node: ir.Node
    data: ir.Value
    indices: np.ndarray
    axis: int


def _read(node: ir.Node) -> _Taken | None:
    if not graph.is_standard(node, "Gather") or node.inputs[0] is None:
        return None
    data = node.inputs[0]
    indices = graph.constant(node.inputs[1], max_bytes=_MAX_BYTES)
    axis, rank = graph.attribute_int(node, "axis", 0), graph.rank(data)
    if indices is None or (axis < 0 and rank is None):
        return None
    return _Taken(node, data, indices.astype(np.int64), axis + (rank or 0) if axis < 0 else axis)


def _of_gather(names: graph.NameSource, taken: _Taken, source: ir.Node) -> Rewrite | Mismatch:
    first = _read(source)
    if first is None or first.axis != taken.axis or first.indices.ndim != 1:
        return Mismatch("the Gather before it takes of another axis, or not by a constant vector")
    if graph.sole_consumer(taken.data) is None:
        return Mismatch(f"{graph.label(source)} has to stay: {graph.why_not_sole(taken.data)}")
    size = first.indices.size
    if not _in_range(taken.indices, size):
        return Mismatch(f"an index is not one of {size}")
    return partial(_read_from, names, taken, first.data, first.indices[taken.indices])


def _of_concat(names: graph.NameSource, taken: _Taken, source: ir.Node, opset: int) -> Rewrite | Mismatch:
    joined = read_concat(source, opset)
    if joined is None or joined.axis != taken.axis or not taken.indices.size:
        return match.NOT_HERE
    indices = taken.indices
    if indices.min() < 0:
        if joined.size is None or not _in_range(indices, joined.size):
            return Mismatch("where its parts lie is not known")
        indices = np.where(indices < 0, indices + joined.size, indices)
    for span in joined.spans:
        if span.start > indices.min() or indices.max() >= span.end:
            continue
        if np.array_equal(indices, np.arange(span.start, span.end)):
            reason = graph.can_replace(taken.node.outputs[0], span.part)
            return Mismatch(reason) if reason else partial(graph.replace_value, taken.node.outputs[0], span.part)
        return partial(_read_from, names, taken, span.part, indices - span.start)
    return Mismatch("its indices are not in one part of known place")


def _of_unsqueeze(taken: _Taken, source: ir.Node, opset: int) -> Rewrite | Mismatch:
    axes, rank, inner = axes_of(source, opset), graph.rank(taken.data), source.inputs[0]
    if axes is None or len(axes) != 1 or inner is None or (axes[0] < 0 and rank is None):
        return match.NOT_HERE
    if (axes[0] + (rank or 0) if axes[0] < 0 else axes[0]) != taken.axis:
        return Mismatch("another axis is new")
    if taken.indices.ndim or int(taken.indices) not in {0, -1}:
        return Mismatch("it takes more than one, or one that is not there")
    reason = graph.can_replace(taken.node.outputs[0], inner)
    return Mismatch(reason) if reason else partial(graph.replace_value, taken.node.outputs[0], inner)


def _in_range(indices: np.ndarray, size: int) -> bool:
    return bool(((indices >= -size) & (indices < size)).all())


def _read_from(names: graph.NameSource, taken: _Taken, data: ir.Value, indices: np.ndarray) -> None:
    node, old = taken.node, taken.node.inputs[1]
    if old is None:
        raise ValueError(f"{graph.label(node)} has no indices")
    made = graph.constant_beside(old, node, names(f"{node.outputs[0].name}_indices"), indices)
    node.replace_input_with(0, data)
    node.replace_input_with(1, made)
