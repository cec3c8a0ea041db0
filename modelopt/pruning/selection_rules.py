"""Rules for operators that pick positions of axes, and for those that repeat them: Slice, Gather, Expand, Tile …"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.axis_sizes import follow_target, holder, moving, replace_input, sizes_of, write_ints
from modelopt.pruning.dependencies import (
    OPEN_SIZE,
    AxisSize,
    Dependencies,
    Edit,
    Kept,
    Labels,
    Rule,
)
from modelopt.pruning.unproven import Unproven, axis_in, require
from modelopt.pruning.weight_axes import Producer

_FIRST_SLICE_WITH_INPUTS = 10
_MOST_COPIES = 65_536


def sliced(node: ir.Node, found: Dependencies) -> None:
    """Labels are cut as elements are; where the axis shrinks, start and end are those of what stays."""
    given = found.axes(node.inputs[0])
    if not given:
        return
    rank = len(found.shape(node.inputs[0]))
    starts, ends = graph.ints_of(node, 1, "starts"), graph.ints_of(node, 2, "ends")
    axes = _optional(node, 3, "axes")
    steps = _optional(node, 4, "steps")
    count = graph.static_shape(node.inputs[1]) if len(node.inputs) > 1 else (len(starts or ()),)
    if axes is None and count is not None:
        axes = tuple(range(count[0]))
    if axes is None:
        raise Unproven("which axes it cuts is not known")
    given_for = [numbers for numbers in (starts, ends, steps) if numbers is not None]
    require(all(len(numbers) == len(axes) for numbers in given_for))
    places = {axis_in(axis, rank): place for place, axis in enumerate(axes)}
    for axis, labels in given.items():
        place = places.get(axis)
        if place is None:
            found.put(node.outputs[0], axis, labels)
        elif starts is None or ends is None or (steps is not None and steps[place] != 1):
            found.atoms.keep(labels, "Slice cuts it at places that are computed, or leaves some out")
        else:
            found.put(node.outputs[0], axis, labels[starts[place] : ends[place]])
            found.edit(labels, _moved_bounds(node, place, labels, found))


def _optional(node: ir.Node, index: int, name: str) -> tuple[int, ...] | None:
    value = graph.input_at(node, index)
    if value is None:
        return graph.attribute_ints(node, name)
    numbers = graph.constant_ints(value)
    if numbers is None:
        raise Unproven("which axes it cuts is not known")
    return numbers


def _moved_bounds(node: ir.Node, place: int, labels: Labels, found: Dependencies) -> Edit:
    def change(kept: Kept, names: graph.NameSource) -> None:
        stays = kept.mask(labels)
        bounds = [list(graph.ints_of(node, index, name) or ()) for index, name in ((1, "starts"), (2, "ends"))]
        first, last, _ = slice(bounds[0][place], bounds[1][place]).indices(len(labels))
        bounds[0][place] = int(np.count_nonzero(stays[:first]))
        bounds[1][place] = int(np.count_nonzero(stays[:last]))
        for index, (name, numbers) in enumerate(zip(("starts", "ends"), bounds, strict=True), start=1):
            if found.opset < _FIRST_SLICE_WITH_INPUTS:
                node.attributes.add(ir.AttrInt64s(name, numbers))
            else:
                like = graph.constant(node.inputs[index])
                write_ints(node, index, numbers, names, np.int64 if like is None else like.dtype)

    return change


def gathered(node: ir.Node, found: Dependencies) -> None:
    """Positions are picked by constant indices, which are renumbered; or rows of a table, whose width may shrink."""
    data, indices = node.inputs[0], node.inputs[1]
    shape = found.shape(data)
    picked = axis_in(graph.attribute_int(node, "axis", 0), len(shape))
    if graph.constant_tensor(data) is not None:
        if len(shape) == 2 and picked == 0:
            width = len(found.shape(indices))
            found.put(node.outputs[0], width, found.of(data, 1))
            if data is not None and found.axes(data).get(1) is not None:
                found.producers.append(Producer(node, data, 1))
        return
    given = found.axes(data)
    if not given:
        return
    wanted = len(found.shape(indices))
    for axis, labels in given.items():
        if axis == picked:
            _pick(node, labels, axis, found)
        else:
            found.put(node.outputs[0], axis if axis < picked else axis + wanted - 1, labels)


def _pick(node: ir.Node, labels: Labels, axis: int, found: Dependencies) -> None:
    places = graph.constant(node.inputs[1])
    if places is None:
        found.atoms.keep(labels, "Gather picks positions of it that are computed")
        return
    require(places.dtype.kind in "iu" and bool(((places >= -len(labels)) & (places < len(labels))).all()))
    chosen = labels[places]
    if places.ndim == 1:
        found.put(node.outputs[0], axis, chosen)
    else:
        found.atoms.keep(chosen, "Gather picks it alone")

    def change(kept: Kept, names: graph.NameSource) -> None:
        stays = kept.mask(labels)
        after = (np.cumsum(stays) - 1)[places]  # negative indices count from the end, before and after
        left = after[stays[places]] if places.ndim == 1 else after
        value = graph.add_initializer(
            holder(node), names(f"{graph.name_of(node)}_indices"), np.asarray(left, places.dtype)
        )
        replace_input(node, 1, value)

    found.edit(labels, change)


def expanded(node: ir.Node, found: Dependencies) -> None:
    """Expand: axes of size 1 are stretched to the sizes given; all others pass."""
    data = node.inputs[0]
    before, after = found.shape(data), found.shape(node.outputs[0])
    target = sizes_of(node.inputs[1], found)
    given = graph.static_shape(node.inputs[1])
    if given is None or len(given) != 1:
        raise Unproven("the sizes that it gives are not known")
    made: dict[int, Labels] = {}
    for axis in range(len(after)):
        position, own = axis - len(after) + given[0], axis - len(after) + len(before)
        size = None if target is None or position < 0 else target[position]
        labels = found.of(data, own) if own >= 0 and before[own] != 1 else _stretched(size, found)
        if labels is None or len(labels) != after[axis]:
            continue
        found.put(node.outputs[0], axis, labels)
        if position >= 0 and size != 1:
            made[position] = labels
    follow_target(node, 1, made, found)


def _stretched(size: object, found: Dependencies) -> Labels | None:
    """The labels of an axis whose positions are all alike: there may be as many as are wanted."""
    if isinstance(size, AxisSize):
        return size.labels
    return found.atoms.new(size) if isinstance(size, int) and 1 < size <= _MOST_COPIES else None


def tiled(node: ir.Node, found: Dependencies) -> None:
    """Tile: labels are repeated as elements are."""
    repeats = graph.constant_ints(node.inputs[1])
    before = found.shape(node.inputs[0])
    if repeats is None or len(repeats) != len(before):
        raise Unproven("how often it repeats is not known")
    made: dict[int, Labels] = {}
    for axis, labels in found.axes(node.inputs[0]).items():
        require(0 < repeats[axis] <= _MOST_COPIES, "how often it repeats is not known")
        found.put(node.outputs[0], axis, np.tile(labels, repeats[axis]))
    for axis, count in enumerate(repeats):
        if before[axis] == 1 and 1 < count <= _MOST_COPIES:
            made[axis] = found.atoms.new(count)
            found.put(node.outputs[0], axis, made[axis])
    follow_target(node, 1, made, found)


def filled(node: ir.Node, found: Dependencies) -> None:
    """ConstantOfShape: all elements are alike, so that axes may have any size."""
    target = sizes_of(node.inputs[0], found)
    if target is None or target.ndim != 1:
        return
    made: dict[int, Labels] = {}
    for axis, size in enumerate(target):
        labels = _stretched(size, found)
        if labels is not None and len(labels) < OPEN_SIZE:
            found.put(node.outputs[0], axis, labels)
            made[axis] = labels
    follow_target(node, 0, made, found)


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Slice"): moving(sliced),
    ("", "Gather"): moving(gathered),
    ("", "Expand"): expanded,
    ("", "Tile"): tiled,
    ("", "ConstantOfShape"): filled,
}
