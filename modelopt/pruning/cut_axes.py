"""Which part of an axis that Reshape cuts is the one whose entries should go: what its readers do with the parts.

A width may be cut into heads and what each holds, into (3, heads, size), or into groups that a transposition mixes.
Only the entries of one part can go, because the tensor must stay a grid. Whatever is chosen, the labels are exact; the
choice only decides what can be removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.axis_blocks import axis_blocks
from modelopt.pruning.dependencies import Dependencies
from modelopt.pruning.unproven import Unproven, axis_in, permutation

_MOST_STEPS = 64

_ELEMENTWISE = frozenset({"Mul", "Div", "Add", "Sub", "Cast", "Identity", "Relu", "Sigmoid", "Neg", "Concat", "Tanh"})


def useful_axis(value: ir.Value, axes: Sequence[int], found: Dependencies) -> int:
    """The axis, of those that one axis was cut into, whose entries may go with the most use.

    Args:
        value: What Reshape makes.
        axes: Those axes of it, with a size above 1.
        found: For the shapes.

    Returns:
        The heads where a product of computed matrices has them as a batch; the one that is not joined with others where
        a later Reshape joins the rest; the largest where all are joined again in another order; else the first.
    """
    waiting: list[tuple[ir.Value, dict[int, int]]] = [(value, {axis: axis for axis in axes})]  # where each axis is
    for _ in range(_MOST_STEPS):
        if not waiting:
            break
        current, places = waiting.pop(0)
        for node, index in current.uses():
            try:
                found.learn(node)  # readers have not been followed yet
                chosen = _chosen(node, index, places, axes, found)
                if chosen is not None:
                    return chosen
                waiting += _passed(node, places, found)
            except Unproven:
                continue
    return axes[0]


def _chosen(node: ir.Node, index: int, places: dict[int, int], axes: Sequence[int], found: Dependencies) -> int | None:
    """The axis that a reader decides for, None where it does not decide."""
    if node.op_type in {"MatMul", "FusedMatMul"}:
        rank = len(found.shape(node.inputs[index]))
        batches = [axis for axis, place in places.items() if place < rank - 2]
        return batches[-1] if batches else None
    if node.op_type == "Attention" and graph.is_standard(node, "Attention"):
        return next((axis for axis, place in places.items() if place == 1), None)
    if node.op_type != "Reshape":
        return None
    before, after = found.shape(node.inputs[0]), found.shape(node.outputs[0])
    size_of = {axis: before[place] for axis, place in places.items()}
    for block in axis_blocks(before, after):
        inside = [axis for axis, place in places.items() if place in block.before]
        others = [axis for axis in block.before if before[axis] != 1 and axis not in places.values()]
        if inside and not others:  # nothing else is joined with them
            if len(inside) == len(axes) and [places[axis] for axis in axes] == sorted(places.values()):
                return None  # joined in the order in which they were cut
            return max(inside, key=lambda axis: size_of[axis])
    return None


def _passed(node: ir.Node, places: dict[int, int], found: Dependencies) -> list[tuple[ir.Value, dict[int, int]]]:
    """Where the axes are in what a reader makes, for readers that do not compute along them."""
    if node.op_type in _ELEMENTWISE:
        if len(found.shape(node.outputs[0])) == len(found.shape(node.inputs[0])):
            return [(node.outputs[0], places)]
        return []
    if node.op_type in {"Split", "Slice"}:
        return [(output, places) for output in node.outputs]
    if node.op_type == "Transpose":
        perm = permutation(node, len(found.shape(node.inputs[0])))
        return [(node.outputs[0], {axis: perm.index(place) for axis, place in places.items()})]
    if node.op_type == "Gather" and graph.rank(node.inputs[1]) == 0:
        gone = axis_in(graph.attribute_int(node, "axis", 0), len(found.shape(node.inputs[0])))
        left = {axis: place - (place > gone) for axis, place in places.items() if place != gone}
        return [(node.outputs[0], left)] if left else []
    if node.op_type in {"Squeeze", "Unsqueeze"}:
        moved = _aligned(found.shape(node.inputs[0]), found.shape(node.outputs[0]))
        left = {axis: moved[place] for axis, place in places.items() if place in moved}
        return [(node.outputs[0], left)] if left else []
    return []


def _aligned(before: Sequence[int], after: Sequence[int]) -> dict[int, int]:
    """Where axes of a size above 1 go when only axes of size 1 come or go."""
    wide = [[axis for axis, size in enumerate(shape) if size != 1] for shape in (before, after)]
    return dict(zip(*wide, strict=False))
