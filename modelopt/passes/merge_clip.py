"""Merge Relu and Clip behind Relu or Clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite

_FLOAT_MAX = float(np.finfo(np.float32).max)

Bounds = tuple[float, float]


class MergeClip(RewritePass):
    """Merge Relu or Clip behind Relu or Clip into one Clip, or into none.

    With ``clip(v) = min(max(v, low), high)``, which is monotone, ``clip₂(clip₁(x))`` is a clip to
    ``[clip₂(low₁), clip₂(high₁)]``; where clip₂ contains the range of clip₁ it does nothing. Relu is
    ``[0, ∞)``. A bound that Clip lacks is the largest finite number of its type (Clip-6, Clip-11), not infinity: so a
    Clip never becomes a Relu, and infinite inputs come out as before. NaN passes through each of them.

    Bounds are attributes in Clip-6 and inputs since Clip-11, where they must be constant. Where others use the output
    of the first one too, merging would keep both: refused, unless the second one does nothing.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the second Relu or Clip; longer chains fold from the front."""
        first = None if not _is_clip(node) or node.inputs[0] is None else node.inputs[0].producer()
        if first is None or not _is_clip(first):
            return match.NOT_HERE
        if opset < 6:
            return Mismatch(f"Clip of opset {opset} is another operator")
        inner, outer = _bounds(first, opset), _bounds(node, opset)
        if isinstance(inner, Mismatch):
            return inner
        if isinstance(outer, Mismatch):
            return outer
        if outer[0] <= inner[0] and inner[1] <= outer[1]:
            reason = graph.can_replace(node.outputs[0], first.outputs[0])
            return Mismatch(reason) if reason else partial(graph.replace_value, node.outputs[0], first.outputs[0])
        if graph.sole_consumer(first.outputs[0]) is None:
            return Mismatch(f"{graph.label(first)} has to stay: {graph.why_not_sole(first.outputs[0])}")
        low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
        return partial(_merge, names, node, first, (low, high), opset)


def _is_clip(node: ir.Node) -> bool:
    return graph.is_standard(node, "Relu") or graph.is_standard(node, "Clip")


def _bounds(node: ir.Node, opset: int) -> Bounds | Mismatch:
    if node.op_type == "Relu":
        return 0.0, math.inf
    if opset < 11:
        low = graph.attribute_float(node, "min", -_FLOAT_MAX)
        high = graph.attribute_float(node, "max", _FLOAT_MAX)
    else:
        given = _given(node)
        if not given:
            return Mismatch(f"{graph.label(node)} has no bounds")
        tensors = [graph.constant_tensor(value) for value in given.values()]
        if any(tensor is None or tensor.size != 1 or tensor.dtype not in IEEE_FLOATS for tensor in tensors):
            return Mismatch(f"the bounds of {graph.label(node)} are not constant floats")
        largest = min(float(np.finfo(tensor.dtype.numpy()).max) for tensor in tensors if tensor is not None)
        low, high = (
            missing if (number := graph.scalar(given.get(index))) is None else float(number)
            for index, missing in ((1, -largest), (2, largest))
        )
    return (low, high) if low <= high else Mismatch(f"the bounds of {graph.label(node)} are {low:g} and {high:g}")


def _given(node: ir.Node) -> Mapping[int, ir.Value]:
    """The bounds that Clip-11 and later has as inputs, by index."""
    return {index: value for index in (1, 2) if index < len(node.inputs) and (value := node.inputs[index]) is not None}


def _merge(names: graph.NameSource, node: ir.Node, first: ir.Node, bounds: Bounds, opset: int) -> None:
    x = first.inputs[0]
    if opset < 11:
        graph.become(node, "Clip", [x], [ir.AttrFloat32("min", bounds[0]), ir.AttrFloat32("max", bounds[1])])
    else:
        known = {float(graph.scalar(value) or 0): value for part in (first, node) for value in _given(part).values()}
        like = next(iter(known.values()))
        dtype = graph.constant_tensor(like).dtype.numpy()  # type: ignore[union-attr]
        values = [
            None
            if abs(bound) == np.finfo(dtype).max
            else known.get(bound)
            or graph.constant_beside(like, node, names(f"{like.name}_{end}"), np.array(bound, dtype))
            for bound, end in zip(bounds, ("low", "high"), strict=True)
        ]
        graph.become(node, "Clip", [x, *values[: 2 if values[1] else 1]])
