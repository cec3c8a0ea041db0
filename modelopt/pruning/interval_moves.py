"""Bounds of what operators that move elements make: they join, cut, permute and repeat them as they do the elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.axis_blocks import axis_blocks
from modelopt.pruning.dependencies import Dependencies
from modelopt.pruning.interval_functions import outward
from modelopt.pruning.unproven import Unproven
from modelopt.pruning.value_intervals import FEW_ULPS, Bounds, Known, Rule, along, epsilon_of, operand, union


def joined(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Concat: along the axis of the bounds they are joined, along another one the channel is any of the parts."""
    ranks = {graph.rank(value) for value in node.inputs}
    rank = ranks.pop() if len(ranks) == 1 else None
    if not rank:
        return ()
    axis = graph.attribute_int(node, "axis", 1) % rank
    parts = [operand(value, known, axis) for value in node.inputs]
    sizes = [(graph.dims(value) or ())[axis] for value in node.inputs]
    if any(not np.isinf(low).all() or not np.isinf(high).all() for low, high in parts) and all(
        isinstance(size, int) and len(low) in {1, size} for size, (low, _) in zip(sizes, parts, strict=True)
    ):
        whole = [
            np.concatenate(
                [np.broadcast_to(part[end], int(size or 0)) for part, size in zip(parts, sizes, strict=True)]
            )
            for end in (0, 1)
        ]
        return (along(axis, (whole[0], whole[1])),)
    given = [known.get(value) if value is not None else None for value in node.inputs]
    axes = {each.axis for each in given if each is not None}
    if any(each is None for each in given) or len(axes) != 1 or axes == {axis}:
        return ()
    first, *others = (each.range for each in given if each is not None)
    for other in others:
        if len(other[0]) != len(first[0]):
            return ()
        first = union(first, other)
    return (along(axes.pop(), first),)


def parted(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Split: the bounds are cut with the axis."""
    given, rank = known.get(node.inputs[0]) if node.inputs[0] else None, graph.rank(node.inputs[0])
    if given is None or not rank:
        return ()
    axis = graph.attribute_int(node, "axis", 0) % rank
    if given.axis != axis:
        return [given for _ in node.outputs]
    sizes = [(graph.dims(value) or (None,) * rank)[axis] for value in node.outputs]
    if not all(isinstance(size, int) for size in sizes) or sum(int(size or 0) for size in sizes) != len(given.low):
        return ()
    ends = np.cumsum([0, *(int(size or 0) for size in sizes)])
    return [
        along(axis, (given.low[a:b], given.high[a:b])) if b > a else None for a, b in itertools.pairwise(ends.tolist())
    ]


def transposed(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """The axis of the bounds moves."""
    given, rank = known.get(node.inputs[0]) if node.inputs[0] else None, graph.rank(node.inputs[0])
    if given is None or rank is None:
        return ()
    perm = graph.attribute_ints(node, "perm") or tuple(reversed(range(rank)))
    axis = None if given.axis is None or given.axis not in perm else perm.index(given.axis)
    return (along(axis, given.range if axis is not None else given.hull),)


def reshaped(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Bounds are repeated where the axis is joined with others, and put together where it is cut."""
    given = known.get(node.inputs[0]) if node.inputs[0] else None
    if given is None:
        return ()
    return (_reshaped(node, given) or along(None, given.hull),)


def _reshaped(node: ir.Node, given: Bounds) -> Bounds | None:
    shapes = Dependencies()
    try:
        before, after = shapes.shape(node.inputs[0]), shapes.shape(node.outputs[0])
    except Unproven:
        return None
    if given.axis is None or 0 in before or 0 in after or before[given.axis] != len(given.low):
        return None
    block = next((block for block in axis_blocks(before, after) if given.axis in block.before), None)
    if block is None:
        return None
    at = block.before.index(given.axis)
    outer, inner = (math.prod(before[axis] for axis in part) for part in (block.before[:at], block.before[at + 1 :]))
    total = outer * inner * len(given.low)
    if total > 2**24 or total != math.prod(after[axis] for axis in block.after):
        return None
    low, high = (np.tile(np.repeat(end, inner), outer) for end in given.range)
    wide = [axis for axis in block.after if after[axis] != 1]
    sizes = [after[axis] for axis in wide]
    options = []
    for place, axis in enumerate(wide):
        rows = [np.moveaxis(end.reshape(sizes), place, 0).reshape(sizes[place], -1) for end in (low, high)]
        options.append((axis, (rows[0].min(1), rows[1].max(1))))
    if not options:
        return None
    return along(*max(options, key=lambda each: np.count_nonzero(each[1][0] == each[1][1]) / len(each[1][0])))


def padded(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Pad: the channel, or the number that is added."""
    given = known.get(node.inputs[0]) if node.inputs[0] else None
    sizes, rank = graph.ints_of(node, 1, "pads"), graph.rank(node.inputs[0])
    if given is None or rank is None:
        return ()
    mode = graph.attribute_string(node, "mode", "constant")
    value = graph.input_at(node, 2)
    number = graph.attribute_float(node, "value", 0.0) if value is None else graph.scalar(value)
    if mode == "constant" and number is None:
        return ()
    known_sizes = sizes is not None and len(sizes) == 2 * rank and len(node.inputs) < 4
    if given.axis is not None and not (
        known_sizes and sizes and not sizes[given.axis] and not sizes[given.axis + rank]
    ):
        given = Bounds(None, *given.hull)
    if mode != "constant":
        return (given,)
    added = np.array([float(number or 0)])
    return (along(given.axis, union(given.range, (added, added))),)


def resized(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Nearest and linear interpolation stay between the numbers that they are given, along other axes."""
    given, rank = known.get(node.inputs[0]) if node.inputs[0] else None, graph.rank(node.inputs[0])
    scales = graph.constant(node.inputs[-1], max_bytes=4096)
    if given is None or rank is None or graph.attribute_string(node, "mode", "nearest") not in {"nearest", "linear"}:
        return ()
    if graph.attribute_string(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return ()
    found = outward(given.range, FEW_ULPS * epsilon_of(node.outputs[0]))
    if given.axis is not None and not (scales is not None and scales.shape == (rank,) and scales[given.axis] == 1):
        return (along(None, Bounds(None, *found).hull),)
    return (along(given.axis, found),)


MOVES: Mapping[tuple[str, str], Rule] = {
    ("", "Concat"): joined,
    ("", "Split"): parted,
    ("", "Transpose"): transposed,
    **{("", op_type): reshaped for op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Pad"): padded,
    ("", "Resize"): resized,
    ("", "Upsample"): resized,
}
"""By domain ("" for ONNX's own) and operator."""
