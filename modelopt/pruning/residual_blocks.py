"""Whole residual blocks that can go: in y = x + f(x) the sum becomes x, and all that computes f goes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim
from modelopt.pruning.constant_chains import stored_behind

MEANING = "a residual block is a sum x + f(x) with weights in f; without f the sum is x, of the same shape"
"""What a reader has to know who asked for blocks."""

_MOST_VALUES = 4_000
"""A block is not larger."""

_PASSING = frozenset(
    {
        *("Identity", "Dropout", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Swish", "Mish", "Tanh", "Neg"),
    }
)
"""Operators that make zeros of zeros."""

_OUTPUT = "the sum is an output of the model"
_NO_SHAPE = "the shape of a summand is not known"
_NO_SIZES = "the sizes of the summands are not known"
_WIDER = "the sum has another shape than what is added to"

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
        last: The inputs of the last layer of f, and of the sums behind it, whose zeros make f(x) zero: (node, index).
    """

    name: str
    add: ir.Node
    skip: ir.Value
    branch: ir.Value
    branch_index: int
    nodes: tuple[ir.Node, ...]
    last: tuple[tuple[ir.Node, int], ...]


@dataclass(frozen=True)
class ResidualBlocks:
    """The residual blocks of a model.

    Attributes:
        blocks: Those that can go, in order; one may hold another.
        refused: By reason, how many sums look like residual ones and must stay.
        level_sums: All sums of two computed values of one shape.
    """

    blocks: tuple[ResidualBlock, ...]
    refused: Mapping[str, int]
    level_sums: frozenset[ir.Node] = frozenset()

    @property
    def of_unknown_shape(self) -> bool:
        """Whether a sum was refused because not all shapes are known."""
        return bool({_NO_SHAPE, _NO_SIZES} & self.refused.keys())


def residual_blocks(model: ir.Model) -> ResidualBlocks:
    """Which residual blocks of the main graph can be removed.

    Args:
        model: The model, with the shapes of its values (see `consteval.known_shapes`); it is not changed.
    """
    blocks: list[ResidualBlock] = []
    refused: Counter[str] = Counter()
    level: set[ir.Node] = set()
    for node in model.graph:
        if not any(graph.is_standard(node, kind) for kind in ("Add", "Sum")) or len(node.inputs) != 2:
            continue
        shapes = [graph.dims(value) for value in node.inputs]
        if shapes[0] == shapes[1] and None not in (shapes[0] or (None,)):
            level.add(node)
        found = _block(node)
        if isinstance(found, str):
            refused[found] += 1
        elif found is not None:
            blocks.append(found)
    skips = {block.add.outputs[0]: block.skip for block in blocks}
    outputs = [block for block in blocks if block.add.outputs[0].is_graph_output() and _ends_at_edge(block, skips)]
    if outputs:
        refused[_OUTPUT] += len(outputs)
    return ResidualBlocks(tuple(block for block in blocks if block not in outputs), dict(refused), frozenset(level))


def _ends_at_edge(block: ResidualBlock, skips: Mapping[ir.Value, ir.Value]) -> bool:
    """Whether an output of the model could become an input, or another output, when other blocks are gone too."""
    value = block.skip
    while value in skips and not value.is_graph_output():
        value = skips[value]
    return value.producer() is None or value.is_graph_output()


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
    last = _last(branch, skip)
    if last is None:
        return "its last layer cannot be held against zeros"
    if last[-1][0] not in nodes:
        return "its last layer is read elsewhere too"
    return ResidualBlock(graph.name_of(node), node, skip, branch, int(branch is second), nodes, tuple(last))


def _why_not(node: ir.Node, skip: ir.Value, branch: ir.Value) -> str | None:
    shapes = graph.dims(skip), graph.dims(branch)
    if shapes[0] is None or shapes[1] is None:
        return _NO_SHAPE
    if graph.can_replace(node.outputs[0], skip) is not None:
        return _OUTPUT
    return _changes_shape(shapes[0], shapes[1])


def _changes_shape(skip: tuple[Dim, ...], branch: tuple[Dim, ...]) -> str | None:
    """Why the sum may have another shape than `skip`; None where it is proven to have the same."""
    if len(branch) > len(skip):
        return _WIDER
    for mine, theirs in zip(skip[len(skip) - len(branch) :], branch, strict=True):
        if theirs == 1 or (mine == theirs and mine is not None):
            continue
        if mine == 1:
            return _WIDER
        if not isinstance(mine, int):
            return _NO_SIZES
    return None


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


def gone_with(chosen: Iterable[ResidualBlock], blocks: Sequence[ResidualBlock]) -> tuple[ResidualBlock, ...]:
    """The blocks that go when `chosen` go, in order: those themselves, and those inside them."""
    named = set(chosen)
    nodes = {node for block in named for node in block.nodes}
    return tuple(block for block in blocks if block in named or block.add in nodes)


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
    for node, index in block.last:
        base = stored_behind(node.inputs[index])
        array = None if base is None else graph.constant(base[0])
        if base is not None and array is not None:
            zeros = np.zeros_like(array.transpose(base[1]))
            value = graph.constant_beside(base[0], node, names(f"{base[0].name}_zeros"), zeros)
            node.replace_input_with(index, value)


def _last(value: ir.Value | None, skip: ir.Value) -> list[tuple[ir.Node, int]] | None:
    """The inputs whose zeros make a value zero, the layer's weight behind those of sums; None where none are known."""
    places: list[tuple[ir.Node, int]] = []
    while value is not None and value is not skip:
        node = value.producer()
        if node is None or node.domain not in graph.STANDARD_DOMAINS:
            return None
        stored = [index for index, each in enumerate(node.inputs) if stored_behind(each) is not None]
        if node.op_type in _LAYERS:
            given = [index for index in _LAYERS[node.op_type] if index < len(node.inputs) and node.inputs[index]]
            return [*places, *((node, index) for index in given)] if set(given) <= set(stored) else None
        if node.op_type in {"MatMul", "Mul"} and len(stored) == 1:
            return [*places, (node, stored[0])]
        if node.op_type == "Mul" and not stored:  # a gate: zeros on one side are enough
            sides = (_last(each, skip) for each in node.inputs)
            return next(([*places, *found] for found in sides if found is not None), None)
        if node.op_type == "Add" and len(stored) == 1:
            places.append((node, stored[0]))
            value = node.inputs[1 - stored[0]]
        elif node.op_type in _PASSING:
            value = node.inputs[0]
        else:
            return None
    return None
