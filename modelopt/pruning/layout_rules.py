"""Rules for operators that move elements: they join, cut, permute and repeat label arrays as they do the elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.axis_sizes import copied_constant, follow_target, moving, write_ints
from modelopt.pruning.dependencies import OPEN_SIZE, Dependencies, Kept, Labels, Rule
from modelopt.pruning.unproven import Unproven, axis_in, in_rows, permutation, require

_FIRST_WITH_SPLIT_INPUT = 13
_MOST_PIXELS = 256
"""In a row of a block."""


def concat(node: ir.Node, found: Dependencies) -> None:
    """Along its axis label arrays are joined; across the others all inputs shrink together."""
    shapes = [found.shape(value) for value in node.inputs]
    rank = len(shapes[0])
    require(all(len(shape) == rank for shape in shapes))
    joined = axis_in(graph.attribute_int(node, "axis", 0), rank)
    for axis in range(rank):
        if not any(axis in found.axes(value) for value in node.inputs if graph.constant_tensor(value) is None):
            continue
        if axis == joined:
            parts = [found.axes(value).get(axis) for value in node.inputs]
        else:
            parts = [found.of(value, axis) for value in node.inputs]
        if axis == joined:
            rows = [
                np.full(shape[axis], FIXED) if part is None else part for part, shape in zip(parts, shapes, strict=True)
            ]
            found.put(node.outputs[0], axis, np.concatenate(rows))
            continue
        labels = parts[0]
        for part in parts[1:]:
            labels = found.unite(labels, part, "Concat joins it with what cannot shrink")
        found.put(node.outputs[0], axis, labels)


def split(node: ir.Node, found: Dependencies) -> None:
    """Along its axis the label array is cut at the same places; the parts get explicit sizes when it shrinks."""
    shapes = [found.shape(value) for value in node.outputs]
    cut = axis_in(graph.attribute_int(node, "axis", 0), len(shapes[0]))
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis != cut:
            for output in node.outputs:
                found.put(output, axis, labels)
            continue
        if sum(shape[axis] for shape in shapes) != len(labels):
            raise Unproven("the sizes of its parts are not known")
        parts = np.split(labels, np.cumsum([shape[axis] for shape in shapes])[:-1])
        for output, part in zip(node.outputs, parts, strict=True):
            found.put(output, axis, part)
        found.edit(labels, lambda kept, names, parts=tuple(parts): _resize_parts(node, parts, found, kept, names))  # type: ignore[misc]


def _resize_parts(
    node: ir.Node, parts: Sequence[Labels], found: Dependencies, kept: Kept, names: graph.NameSource
) -> None:
    sizes = [kept.count(part) for part in parts]
    if found.opset < _FIRST_WITH_SPLIT_INPUT:
        node.attributes.add(ir.AttrInt64s("split", sizes))
        return
    write_ints(node, 1, sizes, names)
    node.attributes.pop("num_outputs", None)


def transpose(node: ir.Node, found: Dependencies) -> None:
    """Label arrays go with their axes."""
    perm = permutation(node, len(found.shape(node.inputs[0])))
    for axis, labels in found.axes(node.inputs[0]).items():
        found.put(node.outputs[0], perm.index(axis), labels)


def padded(node: ir.Node, found: Dependencies) -> None:
    """Axes that get nothing pass; positions that get a constant cannot go, those beside them can."""
    rank = len(found.shape(node.inputs[0]))
    pads = graph.ints_of(node, 1, "pads")
    axes = graph.constant_ints(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else range(rank)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        raise Unproven("how much it pads is not known")
    constant = graph.attribute_string(node, "mode", "constant") == "constant"
    sizes = {axis_in(axis, rank): (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    for axis, labels in found.axes(node.inputs[0]).items():
        first, last = sizes.get(axis, (0, 0))
        if first == 0 == last:
            found.put(node.outputs[0], axis, labels)
        elif constant and min(first, last) >= 0:
            require(max(first, last) < OPEN_SIZE, "it pads with too much")
            found.put(node.outputs[0], axis, np.pad(labels, (first, last), constant_values=FIXED))
        else:
            found.atoms.keep(labels, "Pad copies or cuts parts of it")


def resized(node: ir.Node, found: Dependencies) -> None:
    """Axes that keep their size pass: those with a factor of 1, or with the size that they have."""
    given = found.axes(node.inputs[0])
    if not given:
        return
    before, after = found.shape(node.inputs[0]), found.shape(node.outputs[0])
    require(len(before) == len(after))
    axes = [axis_in(axis, len(before)) for axis in graph.attribute_ints(node, "axes") or range(len(before))]
    by_size = len(node.inputs) > 3 and node.inputs[3] is not None
    passed = {axis: labels for axis, labels in given.items() if before[axis] == after[axis] == len(labels)}
    if not by_size:
        scales = graph.constant(node.inputs[min(2, len(node.inputs) - 1)])
        if scales is None or scales.shape != (len(axes),):
            raise Unproven("its factors are not known")
        passed = {axis: labels for axis, labels in passed.items() if axis not in axes or scales[axes.index(axis)] == 1}
    for axis, labels in given.items():
        if axis in passed:
            found.put(node.outputs[0], axis, labels)
        else:
            found.atoms.keep(labels, f"{node.op_type} changes its size")
    if by_size:
        made = {axes.index(axis): labels for axis, labels in passed.items() if axis in axes}
        follow_target(node, 3, made, found)


def depth_to_space(node: ir.Node, found: Dependencies) -> None:
    """Blocks of b² channels become pixels of one: in the mode DCR a channel is each C-th, in CRD it is b² in a row."""
    labels = found.axes(node.inputs[0]).get(1)
    found_others = {axis for axis in found.axes(node.inputs[0]) if axis > 1}
    for axis in found_others:
        found.keep(node.inputs[0], "DepthToSpace mixes it with others", axis)
    if labels is None:
        return
    pixels = _pixels(node)
    by_pixel = graph.attribute_string(node, "mode", "DCR") == "DCR"
    require(pixels <= labels.size)
    grid = in_rows(labels, pixels).T if by_pixel else in_rows(labels, labels.size // pixels)
    why = "DepthToSpace reads one of the channels that it joins as one that cannot shrink"
    found.put(node.outputs[0], 1, np.array([found.atoms.unite_all(row, why) for row in grid], np.int64))


def _pixels(node: ir.Node) -> int:
    size = graph.attribute_int(node, "blocksize", 1)
    require(0 < size < _MOST_PIXELS)
    return size**2


def space_to_depth(node: ir.Node, found: Dependencies) -> None:
    """Pixels of a block become channels: output channel (i·b + j)·C + c is pixel (i, j) of channel c."""
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis == 1:
            found.put(node.outputs[0], 1, np.tile(labels, _pixels(node)))
        elif axis > 1:
            found.atoms.keep(labels, "SpaceToDepth mixes it with others")


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Concat"): moving(concat),
    ("", "Split"): split,
    ("", "Transpose"): copied_constant(transpose),
    ("", "Pad"): padded,
    ("", "Resize"): resized,
    ("", "Upsample"): resized,
    ("", "DepthToSpace"): depth_to_space,
    ("", "SpaceToDepth"): space_to_depth,
}
