"""Sizes of axes that models compute with: where a shape is built from numbers that Shape reads, and how it changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.dependencies import AxisSize, Dependencies, Kept, Labels, Rule
from modelopt.pruning.unproven import Unproven, require


def shape_read(node: ir.Node, found: Dependencies) -> None:
    """Shape: one integer for each axis, from `start` to `end`."""
    value = node.inputs[0]
    axes, dims = found.axes(value), found.dims(value)
    if not axes:
        return
    if dims is None:
        raise Unproven("the shape of its input is not known")
    rank = len(dims)
    every: list[AxisSize | None] = [AxisSize(axes[axis]) if axis in axes else None for axis in range(rank)]
    first, last = graph.attribute_int(node, "start", 0), graph.attribute_int(node, "end", rank)
    found.sizes[node.outputs[0]] = _objects(every[first:last])


def _objects(items: Sequence[object]) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def moving(rule: Rule) -> Rule:
    """A rule for an operator that moves elements, which moves sizes of axes as well."""

    def follow(node: ir.Node, found: Dependencies) -> None:
        moved_inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        if any(value in found.sizes for value in moved_inputs):
            moved = _moved(node, found)
            if moved is not None:
                found.sizes[node.outputs[0]] = moved
        else:
            rule(node, found)

    return follow


def copied_constant(rule: Rule) -> Rule:
    """A rule for an operator that may copy a stored tensor, whose labels are then those of the copy."""

    def follow(node: ir.Node, found: Dependencies) -> None:
        tensor = graph.constant_tensor(node.inputs[0])
        for axis in range(0 if tensor is None else len(tensor.shape)):
            found.of(node.inputs[0], axis)
        rule(node, found)

    return follow


def _moved(node: ir.Node, found: Dependencies) -> np.ndarray | None:
    """What an operator makes of the sizes that it reads."""
    if node.op_type == "Concat":
        return _joined(node.inputs, found)
    data = found.sizes_of(node.inputs[0])
    if data is None:
        raise Unproven("it computes with the size of an axis")
    if node.op_type == "Gather":
        places = graph.constant(node.inputs[1])
        if places is None or places.dtype.kind not in "iu" or data.ndim != 1:
            raise Unproven("it picks a size, and which one is not known")
        require(not places.size or (places.min() >= -len(data) and places.max() < len(data)))
        return np.asarray(np.take(data, places, axis=0), object)
    if node.op_type == "Slice":
        bounds = [graph.ints_of(node, 1, "starts"), graph.ints_of(node, 2, "ends"), graph.ints_of(node, 4, "steps")]
        if not bounds[0] or not bounds[1] or data.ndim != 1 or (bounds[2] is not None and len(bounds[2]) != 1):
            raise Unproven("it picks sizes, and which ones is not known")
        return data[slice(bounds[0][0], bounds[1][0], bounds[2][0] if bounds[2] else None)]
    shape = graph.static_shape(node.outputs[0])  # Cast, Identity, Squeeze, Unsqueeze, Reshape
    if shape is None:
        raise Unproven("it computes with the size of an axis")
    require(data.size == math.prod(shape))
    return data.reshape(shape)


def _joined(parts: Iterable[ir.Value | None], found: Dependencies) -> np.ndarray:
    every = [_all_of(part, found) for part in parts]
    require(bool(every) and all(part.ndim == 1 for part in every))
    return np.concatenate(every)


def sizes_of(value: ir.Value | None, found: Dependencies) -> np.ndarray | None:
    """`Dependencies.sizes_of`, also for what Concat makes of constants and of computed sizes."""
    known = found.sizes_of(value)
    producer = None if value is None else value.producer()
    if known is not None or producer is None or not graph.is_standard(producer, "Concat"):
        return known
    try:
        return _joined(producer.inputs, found)
    except Unproven:
        return None


def _all_of(value: ir.Value | None, found: Dependencies) -> np.ndarray:
    known = found.sizes_of(value)
    if known is not None:
        return known
    shape = graph.static_shape(value)
    if shape is None or len(shape) != 1:
        raise Unproven("it computes with the size of an axis")
    return np.full(shape, None, object)


def follow_target(
    node: ir.Node, index: int, made: Mapping[int, Labels], found: Dependencies, *, computed: Sequence[int] = ()
) -> None:
    """Let the sizes that an input of a node gives for its output be those of what stays.

    Args:
        node: The node.
        index: The input with one size for each axis, of type int64.
        made: By position in that input, the labels of the axis whose size stands there.
        found: Where the change is registered.
        computed: Numbers that stand for no size, such as -1 and 0 of Reshape, and need no change.
    """
    target = sizes_of(node.inputs[index], found)
    require(target is None or (target.ndim == 1 and len(target) > max(made, default=-1)))
    wrong: dict[int, Labels] = {}
    watched: list[Labels] = []
    for position, labels in made.items():
        size = None if target is None else target[position]
        if isinstance(size, AxisSize):
            if not np.array_equal(found.atoms.roots(size.labels), found.atoms.roots(labels)):
                wrong[position] = labels
                watched.append(size.labels)
        elif size is None or size not in computed:
            wrong[position] = labels
    for position, size in enumerate(() if target is None else target):
        if isinstance(size, AxisSize) and position not in made:
            found.atoms.keep(size.labels, f"{node.op_type} gives its size to an axis that cannot shrink")
    if wrong:
        value = node.inputs[index]
        shape = graph.static_shape(value) if target is None else target.shape
        if value is None or shape is None or len(shape) != 1:
            raise Unproven("the sizes that it gives are not known")
        parts, count = _parts_of(value), shape[0]
        every = np.concatenate([*wrong.values(), *watched])
        found.edit(every, lambda kept, names: _write_sizes(node, index, wrong, (parts, count), kept, names))


def _parts_of(value: ir.Value) -> tuple[int, ...] | None:
    """How many sizes each input of the Concat that makes a value gives; None where no Concat makes it."""
    producer = value.producer()
    if producer is None or not graph.is_standard(producer, "Concat"):
        return None
    shapes = [graph.static_shape(part) for part in producer.inputs]
    return tuple(shape[0] for shape in shapes if shape) if all(shape is not None for shape in shapes) else None


def _write_sizes(
    node: ir.Node,
    index: int,
    changed: Mapping[int, Labels],
    known: tuple[tuple[int, ...] | None, int],
    kept: Kept,
    names: graph.NameSource,
) -> None:
    """Give a node its own sizes: others may share those that it has. What is computed is replaced where it must be."""
    value = node.inputs[index]
    sizes = {position: kept.count(labels) for position, labels in changed.items()}
    written = graph.constant_ints(value)
    if written is not None:
        write_ints(node, index, [sizes.get(position, size) for position, size in enumerate(written)], names)
        return
    parts, count = known
    if value is None or (parts is not None and _write_parts(node, index, parts, sizes, names)):
        return
    mine = _stored(node, names, np.array([position in sizes for position in range(count)]))
    numbers = _stored(node, names, np.array([sizes.get(position, 0) for position in range(count)], np.int64))
    _put_before(node, index, "Where", [mine, numbers, value], (), names)


def _write_parts(
    node: ir.Node, index: int, parts: Sequence[int], sizes: Mapping[int, int], names: graph.NameSource
) -> bool:
    """Give a node a Concat with other constants; False where a size that changes is in none."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None:
        return False
    inputs, first, left = list(producer.inputs), 0, set(sizes)
    for place, count in enumerate(parts):
        numbers = graph.constant_ints(inputs[place])
        mine = {position for position in range(first, first + count) if position in sizes}
        if mine and numbers is not None:
            changed = [sizes.get(first + offset, number) for offset, number in enumerate(numbers)]
            inputs[place] = _stored(node, names, np.array(changed, np.int64))
            left -= mine
        first += count
    if left:
        return False
    _put_before(node, index, "Concat", inputs, [ir.AttrInt64("axis", 0)], names)
    return True


def _put_before(
    node: ir.Node,
    index: int,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Sequence[ir.Attr],
    names: graph.NameSource,
) -> None:
    """Let a new node with int64 numbers as its output feed a node."""
    made = ir.node(
        op_type, inputs, {each.name: each for each in attributes}, name=names(f"{graph.name_of(node)}_sizes")
    )
    made.outputs[0].name = names(f"{graph.name_of(node)}_chosen")
    made.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    holder(node).insert_before(node, made)
    replace_input(node, index, made.outputs[0])


def write_ints(
    node: ir.Node, index: int, numbers: Sequence[int], names: graph.NameSource, dtype: np.typing.DTypeLike = np.int64
) -> None:
    """Give a node its own constant of integers at an input: others may share the one that it has."""
    node.resize_inputs(max(len(node.inputs), index + 1))
    replace_input(node, index, _stored(node, names, np.array(numbers, dtype)))


def replace_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Let a node read another value; what made only the old one goes."""
    old = node.inputs[index]
    node.replace_input_with(index, value)
    graph.remove_unread([old])


def _stored(node: ir.Node, names: graph.NameSource, array: np.ndarray) -> ir.Value:
    return graph.add_initializer(holder(node), names(f"{graph.name_of(node)}_sizes"), array)


def holder(node: ir.Node) -> ir.Graph:
    """The graph of a node.

    Raises:
        ValueError: It is in none, or in a function.
    """
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{graph.label(node)} is in no graph")
    return node.graph


RULES: Mapping[tuple[str, str], Rule] = {("", "Shape"): shape_read}
