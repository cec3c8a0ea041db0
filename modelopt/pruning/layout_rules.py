"""Rules for operators that move elements: they join, cut, permute and repeat label arrays as they do the elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.axis_blocks import AxisBlock, axis_blocks
from modelopt.pruning.dependencies import OPEN_SIZE, Dependencies, Kept, Labels, Rule, Unproven


def concat(node: ir.Node, found: Dependencies) -> None:
    """Along its axis label arrays are joined; across the others all inputs shrink together."""
    shapes = [found.shape(value) for value in node.inputs]
    rank = len(shapes[0])
    joined = graph.attribute_int(node, "axis", 0) % rank
    for axis in range(rank):
        parts = [found.axes(value).get(axis) for value in node.inputs]
        if all(part is None for part in parts):
            continue
        if axis == joined:
            rows = [
                np.full(shape[axis], FIXED) if part is None else part for part, shape in zip(parts, shapes, strict=True)
            ]
            found.put(node.outputs[0], axis, np.concatenate(rows))
            continue
        labels = parts[0]
        for part in parts[1:]:
            labels = found.unite(labels, part, f"{graph.label(node)} joins it with what cannot shrink")
        found.put(node.outputs[0], axis, labels)


def split(node: ir.Node, found: Dependencies) -> None:
    """Along its axis the label array is cut at the same places; the parts get explicit sizes when it shrinks."""
    shapes = [found.shape(value) for value in node.outputs]
    cut = graph.attribute_int(node, "axis", 0) % len(shapes[0])
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis != cut:
            for output in node.outputs:
                found.put(output, axis, labels)
            continue
        parts = np.split(labels, np.cumsum([shape[axis] for shape in shapes])[:-1])
        for output, part in zip(node.outputs, parts, strict=True):
            found.put(output, axis, part)
        found.edit(labels, lambda kept, names, parts=tuple(parts): _resize_parts(node, parts, kept, names))  # type: ignore[misc]


def _resize_parts(node: ir.Node, parts: Sequence[Labels], kept: Kept, names: graph.NameSource) -> None:
    sizes = [kept.count(part) for part in parts]
    if "split" in node.attributes:
        node.attributes.add(ir.AttrInt64s("split", sizes))
        return
    _write_ints(node, 1, sizes, names)
    node.attributes.pop("num_outputs", None)


def transpose(node: ir.Node, found: Dependencies) -> None:
    """Label arrays go with their axes."""
    rank = len(found.shape(node.inputs[0]))
    perm = graph.attribute_ints(node, "perm") or tuple(reversed(range(rank)))
    for axis, labels in found.axes(node.inputs[0]).items():
        found.put(node.outputs[0], perm.index(axis), labels)


def reshaped(node: ir.Node, found: Dependencies) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: axes are joined, or one is cut into several.

    Where an axis is cut, for example a width into heads and what each of them holds, only whole entries of the first
    part go. The number of elements in the batch is not known: its axis is that of size 1 which the analysis assumes.
    """
    before, after = found.shape(node.inputs[0]), found.shape(node.outputs[0])
    given = found.axes(node.inputs[0])
    if not given:
        return
    blocks = axis_blocks(before, after)
    for block in blocks:
        labelled = [axis for axis in block.before if axis in given]
        if not labelled:
            continue
        if len(labelled) > 1:
            for axis in labelled:
                found.atoms.keep(given[axis], f"{graph.label(node)} joins two axes that could shrink")
            continue
        _through(node, found, block, (before, after), labelled[0])
    if node.op_type == "Reshape":
        _watch_target(node, found)


def _through(
    node: ir.Node, found: Dependencies, block: AxisBlock, shapes: tuple[tuple[int, ...], tuple[int, ...]], axis: int
) -> None:
    """One labelled axis of a block of axes that become others."""
    before, after = shapes
    labels, output = found.axes(node.inputs[0])[axis], node.outputs[0]
    position = block.before.index(axis)
    outer = math.prod(before[each] for each in block.before[:position])
    inner = math.prod(before[each] for each in block.before[position + 1 :])
    if math.prod(after[each] for each in block.after) != outer * inner * before[axis] or outer * inner > OPEN_SIZE:
        raise Unproven("it joins or cuts an axis whose size is not known")
    flat = np.tile(np.repeat(labels, inner), outer)  # the labels of the block, were it one axis
    wide = [each for each in block.after if after[each] != 1]
    if len(wide) == 1:
        found.put(output, wide[0], flat)
        return
    if not wide:
        found.atoms.keep(labels, f"{graph.label(node)} makes single numbers of it")
        return
    grid = flat.reshape([after[each] for each in wide])
    why = f"{graph.label(node)} cuts it where it cannot be cut"
    for place, each in enumerate(wide):
        slices = np.moveaxis(grid, place, 0).reshape(grid.shape[place], -1)
        if place == 0 or all(len(set(row)) == 1 for row in slices.tolist()):
            whole = np.array([found.atoms.unite_all(row, why) for row in slices])
            found.put(output, each, whole)
            return


def _watch_target(node: ir.Node, found: Dependencies) -> None:
    """The written sizes of axes that shrink change with them."""
    target = graph.constant_ints(node.inputs[1])
    made = dict(found.axes(node.outputs[0]))
    if target is None:
        raise Unproven("its shape is computed")
    written = {axis: labels for axis, labels in made.items() if target[axis] > 0}
    for labels in written.values():
        found.edit(labels, lambda kept, names: _write_target(node, written, kept, names))


def _write_target(node: ir.Node, written: Mapping[int, Labels], kept: Kept, names: graph.NameSource) -> None:
    target = list(graph.constant_ints(node.inputs[1]) or ())
    for axis, labels in written.items():
        target[axis] = kept.count(labels)
    _write_ints(node, 1, target, names)


def _write_ints(node: ir.Node, index: int, numbers: Sequence[int], names: graph.NameSource) -> None:
    """Give a node its own constant: others may share the one that it has."""
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{graph.label(node)} is in no graph")
    value = graph.add_initializer(node.graph, names(f"{graph.name_of(node)}_sizes"), np.array(numbers, np.int64))
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, value)


def padded(node: ir.Node, found: Dependencies) -> None:
    """Axes that get nothing pass; along others nothing can go."""
    rank = len(found.shape(node.inputs[0]))
    pads = graph.attribute_ints(node, "pads")
    if pads is None and len(node.inputs) > 1:
        pads = graph.constant_ints(node.inputs[1])
    if pads is None or len(pads) != 2 * rank:
        raise Unproven("its padding is not known for each axis")
    _unchanged(node, found, {axis for axis in range(rank) if not pads[axis] and not pads[rank + axis]})


def resized(node: ir.Node, found: Dependencies) -> None:
    """Axes that keep their size pass, where it is given as a factor of 1."""
    before, after = found.shape(node.inputs[0]), found.shape(node.outputs[0])
    scales = graph.constant(node.inputs[-1]) if node.inputs[-1] is not None else None
    if scales is None or scales.dtype.kind != "f" or len(scales) != len(before):
        raise Unproven("its sizes are not given as factors")
    _unchanged(node, found, {axis for axis in range(len(before)) if scales[axis] == 1 and before[axis] == after[axis]})


def _unchanged(node: ir.Node, found: Dependencies, axes: set[int]) -> None:
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis in axes:
            found.put(node.outputs[0], axis, labels)
        else:
            found.atoms.keep(labels, f"{graph.label(node)} changes its size")


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Transpose"): transpose,
    ("", "Reshape"): reshaped,
    ("", "Flatten"): reshaped,
    ("", "Squeeze"): reshaped,
    ("", "Unsqueeze"): reshaped,
    ("", "Pad"): padded,
    ("", "Resize"): resized,
    ("", "Upsample"): resized,
}
