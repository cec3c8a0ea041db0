"""Rules for operators that join and cut axes: Reshape, Flatten, Squeeze and Unsqueeze."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.axis_blocks import AxisBlock, axis_blocks
from modelopt.pruning.axis_sizes import follow_target, moving
from modelopt.pruning.cut_axes import useful_axis
from modelopt.pruning.dependencies import OPEN_SIZE, Dependencies, Rule
from modelopt.pruning.unproven import Unproven, require


def reshaped(node: ir.Node, found: Dependencies) -> None:
    """Axes are joined, or one is cut into several.

    Where an axis is cut, for example a width into heads and what each of them holds, only whole entries of one part
    go. The number of elements in the batch is not known: its axis is that of size 1 which the analysis assumes.
    """
    given = found.axes(node.inputs[0])
    if given:
        before = found.shape(node.inputs[0])
        after = _with_the_rest(before, found.shape(node.outputs[0]))
        for block in axis_blocks(before, after):
            labelled = [axis for axis in block.before if axis in given]
            if len(labelled) > 1:
                for axis in labelled:
                    found.atoms.keep(given[axis], f"{node.op_type} joins two axes that could shrink")
            elif labelled:
                _through(node, found, block, (before, after), labelled[0])
    if node.op_type == "Reshape":
        _watch_target(node, found)


def _with_the_rest(before: Sequence[int], after: Sequence[int]) -> Sequence[int]:
    """The only open axis of the output holds what the others do not."""
    unknown = [axis for axis, size in enumerate(after) if size > OPEN_SIZE]
    total = math.prod(before)
    if len(unknown) != 1 or 0 in after or math.prod(after) == total:
        return after
    rest = math.prod(size for axis, size in enumerate(after) if axis != unknown[0])
    return after if total % rest else [total // rest if size > OPEN_SIZE else size for size in after]


def _through(
    node: ir.Node, found: Dependencies, block: AxisBlock, shapes: tuple[Sequence[int], Sequence[int]], axis: int
) -> None:
    """One labelled axis of a block of axes that become others."""
    before, after = shapes
    labels, output = found.axes(node.inputs[0])[axis], node.outputs[0]
    position = block.before.index(axis)
    outer = math.prod(before[each] for each in block.before[:position])
    inner = math.prod(before[each] for each in block.before[position + 1 :])
    if math.prod(after[each] for each in block.after) != outer * inner * before[axis] or outer * inner > OPEN_SIZE:
        raise Unproven("it joins or cuts an axis whose size is not known")
    require(len(labels) == before[axis])
    flat = np.tile(np.repeat(labels, inner), outer)  # the labels of the block, were it one axis
    wide = [each for each in block.after if after[each] != 1]
    if len(wide) == 1:
        found.put(output, wide[0], flat)
        return
    if not wide:
        found.atoms.keep(labels, f"{node.op_type} makes single numbers of it")
        return
    grid = flat.reshape([after[each] for each in wide])
    lines = [np.moveaxis(grid, place, 0).reshape(grid.shape[place], -1) for place in range(len(wide))]
    uniform = [place for place, rows in enumerate(lines) if (rows == rows[:, :1]).all()]
    if uniform:
        found.put(output, wide[uniform[0]], lines[uniform[0]][:, 0])
        return
    chosen = wide.index(useful_axis(output, wide, found))
    why = f"{node.op_type} cuts it where it cannot be cut"
    whole = [found.atoms.unite_all(np.unique(row), why) for row in lines[chosen]]
    found.put(output, wide[chosen], np.array(whole, np.int64))


def _watch_target(node: ir.Node, found: Dependencies) -> None:
    """The sizes of axes that shrink change with them; a 0 copies the size of the same axis of the input."""
    given, made = found.axes(node.inputs[0]), found.axes(node.outputs[0])
    written = graph.constant_ints(node.inputs[1]) or ()
    changed = dict(made)
    for axis in [
        axis for axis, size in enumerate(written) if size == 0 and not graph.attribute_int(node, "allowzero", 0)
    ]:
        labels, copied = made.get(axis), given.get(axis)
        if (
            labels is not None
            and copied is not None
            and np.array_equal(found.atoms.roots(labels), found.atoms.roots(copied))
        ):
            changed.pop(axis)
        elif labels is None and copied is not None:
            found.atoms.keep(copied, "Reshape copies its size to another axis")
    follow_target(node, 1, changed, found, computed=(-1,))


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Reshape"): moving(reshaped),
    ("", "Flatten"): reshaped,
    ("", "Squeeze"): moving(reshaped),
    ("", "Unsqueeze"): moving(reshaped),
}
