"""Reading Slice with constant bounds, for the passes that rewrite one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch


@dataclass(frozen=True)
class StaticSlice:
    """What a Slice takes of one axis: ``start:end:step``, as written."""

    axis: int
    start: int
    end: int
    step: int

    def counted_in(self, rank: int | None) -> StaticSlice:
        """The same with the axis counted from the front, where `rank` is known."""
        return replace(self, axis=self.axis + rank) if self.axis < 0 and rank is not None else self


def read_slice(node: ir.Node, opset: int) -> tuple[StaticSlice, ...] | Mismatch:
    """The cuts of a Slice (attributes below opset 10, inputs since), in the order in which they are written."""
    columns: list[tuple[int, ...] | None] = []
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps")):
        given = name in node.attributes if opset < 10 else graph.input_at(node, index) is not None
        column = graph.ints_by_opset(node, opset, name, index, since=10)
        if given and column is None:
            return Mismatch(f"the {name} of {graph.label(node)} are not constant")
        columns.append(column)
    starts, ends, axes, steps = columns
    if starts is None or ends is None:
        return Mismatch(f"{graph.label(node)} has no bounds")
    axes, steps = axes or tuple(range(len(starts))), steps or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return Mismatch(f"the bounds of {graph.label(node)} do not fit each other")
    return tuple(StaticSlice(*cut) for cut in zip(axes, starts, ends, steps, strict=True))
