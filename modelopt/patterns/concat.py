"""The positions of a Concat's parts along its axis, for the passes that take some of them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph


@dataclass(frozen=True)
class Span:
    """One part: ``joined[..., start:end, ...]`` along the axis that is joined."""

    part: ir.Value
    start: int
    end: int


@dataclass(frozen=True)
class Joined:
    """A Concat.

    Attributes:
        axis: The one that is joined, counted from the front.
        spans: The parts, first ones first, up to the first one whose size is not known.
        size: The sum of the sizes of all parts; None where one is not known.
    """

    axis: int
    spans: tuple[Span, ...]
    size: int | None


def read_concat(node: ir.Node, opset: int) -> Joined | None:
    """The parts of a Concat; None where its rank is not known."""
    ranks = [graph.rank(value) for value in (*node.inputs, *node.outputs)]
    rank = next((rank for rank in ranks if rank is not None), None)
    axis = graph.attribute_int(node, "axis", 1 if opset < 4 else 0)
    if rank is None or not -rank <= axis < rank:
        return None
    axis += rank if axis < 0 else 0
    spans: list[Span] = []
    at = 0
    for part in node.inputs:
        dim = part.shape[axis] if part is not None and part.shape is not None else None
        if part is None or not isinstance(dim, int) or dim < 0:
            return Joined(axis, tuple(spans), None)
        spans.append(Span(part, at, at + dim))
        at += dim
    return Joined(axis, tuple(spans), at)
