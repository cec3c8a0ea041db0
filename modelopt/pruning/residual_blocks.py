"""Whole residual blocks that can go: in y = x + f(x) the sum becomes x, and all that computes f goes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim
from modelopt.pruning.constant_chains import stored_behind

_MOST_VALUES = 4_000
"""A block is not larger."""

_PASSING = frozenset({"Identity", "Dropout", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
"""Operators that make zeros of zeros."""

_LAYERS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
}
"""By operator, the inputs whose zeros make its output zero."""


@dataclass(frozen=True)
class ResidualBlock:
    """A sum x + f(x) that can become x.

    Attributes:
        name: The name of the node that adds.
        add: That node.
        skip: x.
        branch: f(x).
        branch_index: Which input of the sum that is.
        nodes: The nodes that nothing else needs: what goes with f, in order.
    """

    name: str
    add: ir.Node
    skip: ir.Value
    branch: ir.Value
    branch_index: int
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class ResidualBlocks:
    """The residual blocks of a model.

    Attributes:
        blocks: Those that can go, in order; one may hold another.
        refused: By reason, how many sums look like residual ones and must stay.
    """

    blocks: tuple[ResidualBlock, ...]
    refused: Mapping[str, int]


def residual_blocks(model: ir.Model) -> ResidualBlocks:
    """Which residual blocks of the main graph can be removed.

    Args:
        model: The model, with the shapes of its values (see `consteval.known_shapes`); it is not changed.
    """
    blocks: list[ResidualBlock] = []
    refused: Counter[str] = Counter()
    for node in model.graph:
        if not graph.is_standard(node, "Add") or len(node.inputs) != 2:
            continue
        found = _block(node)
        if isinstance(found, str):
            refused[found] += 1
        elif found is not None:
            blocks.append(found)
    return ResidualBlocks(tuple(blocks), dict(refused))


def _block(node: ir.Node) -> ResidualBlock | str | None:
    """The block that a sum ends, or why it must stay; None where the sum is no residual one."""
    first, second = node.inputs
    if first is None or second is None or first is second:
        return None
    if graph.constant_tensor(first) is not None or graph.constant_tensor(second) is not None:
        return None
    if _depends(second, first):
        skip, branch = first, second
    elif _depends(first, second):
        skip, branch = second, first
    else:
        return None
    why = _why_not(node, skip, branch)
    if why is not None:
        return why
    nodes = _only_for(node, branch, skip)
    if not any(each.op_type in _LAYERS or each.op_type == "MatMul" for each in nodes):
        return "what it would save holds no weights"
    if _zeroing(branch, skip) is None:
        return "its last layer cannot be held against zeros"
    return ResidualBlock(graph.name_of(node), node, skip, branch, int(branch is second), nodes)


def _why_not(node: ir.Node, skip: ir.Value, branch: ir.Value) -> str | None:
    shapes = graph.dims(skip), graph.dims(branch)
    if shapes[0] is None or shapes[1] is None:
        return "the shape of a summand is not known"
    if not _keeps_shape(shapes[0], shapes[1]):
        return "the sum has another shape than what is added to"
    if graph.can_replace(node.outputs[0], skip) is not None:
        return "the sum is an output of the model"
    return None


def _keeps_shape(skip: tuple[Dim, ...], branch: tuple[Dim, ...]) -> bool:
    """Whether the sum has the shape of `skip`. An open axis of both is taken for one size."""
    if len(branch) > len(skip):
        return False
    pairs = zip(skip[len(skip) - len(branch) :], branch, strict=True)
    return all(mine != 1 or theirs == 1 for mine, theirs in pairs)


def _depends(value: ir.Value, on: ir.Value) -> bool:
    """Whether a value is computed from another, in the main graph, by not too many nodes."""
    waiting, seen = deque([value]), {value}
    while waiting and len(seen) <= _MOST_VALUES:
        producer = waiting.popleft().producer()
        for each in () if producer is None else producer.inputs:
            if each is on:
                return True
            if each is not None and each not in seen:
                seen.add(each)
                waiting.append(each)
    return False


def _only_for(add: ir.Node, branch: ir.Value, skip: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that nothing but the branch of a sum needs."""
    gone: set[ir.Node] = {add}
    waiting = [branch.producer()]
    order: list[ir.Node] = []
    while waiting:
        node = waiting.pop()
        if node is None or node in gone or node is skip.producer():
            continue
        readers = {use for output in node.outputs for use, _ in output.uses()}
        if not readers <= gone or any(output.is_graph_output() for output in node.outputs):
            continue  # asked again when its last reader goes
        gone.add(node)
        order.append(node)
        waiting += [value.producer() for value in node.inputs if value is not None]
    return tuple(reversed(order))


def remove_block(block: ResidualBlock) -> None:
    """Let what read the sum read what was added to, and remove what computed the rest. Nothing where it has gone."""
    skip, branch = block.add.inputs[1 - block.branch_index], block.add.inputs[block.branch_index]
    if block.add.graph is None or skip is None:
        return
    graph.replace_value(block.add.outputs[0], skip)
    graph.remove_if_dead(block.add)
    graph.remove_unread([branch])


def zero_block(block: ResidualBlock, names: graph.NameSource) -> None:
    """Let the last layer of a block make zeros, in new weights: what removing the block must be equal to."""
    change = _zeroing(block.branch, block.skip)
    if change is None:
        raise ValueError(f"the last layer of {block.name} cannot be zeroed")
    change(names)


def _zeroing(branch: ir.Value, skip: ir.Value) -> Callable[[graph.NameSource], None] | None:
    """What makes a branch zero; None where that is not known."""
    places: list[tuple[ir.Node, int]] = []
    value: ir.Value | None = branch
    while value is not None:
        node = value.producer()
        if node is None or value is skip:
            return None
        stored = [index for index, each in enumerate(node.inputs) if stored_behind(each) is not None]
        if node.op_type in _LAYERS:
            given = [index for index in _LAYERS[node.op_type] if index < len(node.inputs) and node.inputs[index]]
            if not set(given) <= set(stored):
                return None
            places += [(node, index) for index in given]
            return lambda names: _write_zeros(places, names)
        if node.op_type in {"MatMul", "Mul"} and len(stored) == 1:
            places.append((node, stored[0]))
            return lambda names: _write_zeros(places, names)
        if node.op_type == "Add" and len(stored) == 1:
            places.append((node, stored[0]))
            value = node.inputs[1 - stored[0]]
        elif node.op_type in _PASSING:
            value = node.inputs[0]
        else:
            return None
    return None


def _write_zeros(places: list[tuple[ir.Node, int]], names: graph.NameSource) -> None:
    for node, index in places:
        base = stored_behind(node.inputs[index])
        array = None if base is None else graph.constant(base[0])
        if base is not None and array is not None:
            zeros = np.zeros_like(array.transpose(base[1]))
            value = graph.constant_beside(base[0], node, names(f"{base[0].name}_zeros"), zeros)
            node.replace_input_with(index, value)
