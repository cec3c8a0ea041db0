"""Merge a change of shape and the Reshape after it into one Reshape."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import known_equal
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MAX_SHAPE_BYTES = 4096


class MergeReshape(RewritePass):
    """Merge Reshape, Flatten, Squeeze or Unsqueeze and a Reshape after it into that Reshape.

    None of the four moves an element, so reshaping the first one's input to the same shape gives the same; ``-1``
    stands for the same number, as the count of elements is the same. But with ``allowzero = 0`` (Reshape-14) a ``0`` at
    position ``i`` copies dimension ``i`` of what is reshaped: it must provably be the same before and after the first.

    Where others use the first one's output too it stays and only the Reshape is rewired.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Reshape; longer chains fold from the front."""
        middle = node.inputs[0] if graph.is_standard(node, "Reshape") else None
        first = None if middle is None else middle.producer()
        if middle is None or first is None or not any(graph.is_standard(first, op_type) for op_type in _SHAPE_ONLY):
            return match.NOT_HERE
        source = first.inputs[0]
        if source is None or opset < 5:
            return Mismatch(f"Reshape of opset {opset} holds its shape in an attribute")
        shape = graph.constant(node.inputs[1], max_bytes=_MAX_SHAPE_BYTES)
        if shape is None:
            return Mismatch("the new shape is not constant")
        if not graph.attribute_int(node, "allowzero", 0):
            for axis in np.flatnonzero(shape == 0):
                if not _same_dim(source, middle, int(axis)):
                    return Mismatch(f"the new shape copies dimension {axis}, which may differ before the first")
        return partial(node.replace_input_with, 0, source)


def _same_dim(left: ir.Value, right: ir.Value, axis: int) -> bool:
    one, other = graph.dims(left), graph.dims(right)
    if one is None or other is None or axis >= min(len(one), len(other)):
        return False
    return known_equal(one[axis], other[axis])
