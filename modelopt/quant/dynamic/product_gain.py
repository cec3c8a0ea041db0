"""Which products save more time in int8 than quantizing their activations at every run costs, by the cost model.

The engine measures the result. Each run finds the range of an activation, quantizes it once for all its readers,
multiplies integers and scales the results. So a reader saves time on its multiply-adds and loses some on each element
that it writes. All readers of an activation together must save more than its quantization costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from modelopt import graph
from modelopt.core.targets import TargetKind
from modelopt.data.synthetic import DEFAULT_FREE_DIM
from modelopt.quant.numerics.cost_model import DynamicCosts, dynamic_costs

FREE_DIM = DEFAULT_FREE_DIM
"""Stands for a size that is known only when the model runs; 1 stands for an unknown batch. Benchmarks do the same."""

NO_KERNEL = "this target has no kernel that quantizes activations at run time: it would run on the CPU"
UNPROFITABLE = (
    "int8 is estimated to save less here than quantizing its input at every run costs (everywhere: true does it)"
)


def refused(nodes: Iterable[ir.Node], kind: TargetKind) -> dict[ir.Node, str]:
    """The nodes that are slower in int8 on a target, with the reason.

    Args:
        nodes: Gemm, MatMul, Attention and LSTM with constant weights, in a model with inferred shapes (see
            `consteval.known_shapes.inferred`); an unknown size counts as `FREE_DIM`.
        kind: The target.
    """
    listed = list(nodes)
    costs = dynamic_costs(kind)
    if costs is None:
        return dict.fromkeys(listed, NO_KERNEL)
    losing = [node for node in listed if node.op_type == "LSTM" and _lstm_gain(node, costs) < 0]
    groups: dict[tuple[ir.Value | None, int], list[ir.Node]] = {}
    for node in listed:
        if node.op_type != "LSTM":
            groups.setdefault((node.inputs[0], id(node.graph)), []).append(node)
    for group in groups.values():
        gains = {node: _product_gain(node, costs) for node in group}
        winning = [node for node in group if gains[node] > 0]
        pays = sum(gains[node] for node in winning) > _quantization(group[0], costs)
        losing += [node for node in group if gains[node] <= 0] if pays else group
    return dict.fromkeys(losing, UNPROFITABLE)


def _product_gain(node: ir.Node, costs: DynamicCosts) -> float:
    """The time that the product itself saves: its input is int8 already."""
    depth, columns = _weight_sizes(node)
    return _rows(node) * columns * (depth * costs.saved_per_mac - costs.rescale)


def _quantization(node: ir.Node, costs: DynamicCosts) -> float:
    return costs.launch + costs.convert * _rows(node) * _weight_sizes(node)[0]


def _lstm_gain(node: ir.Node, costs: DynamicCosts) -> float:
    """X is (steps, batch, I), W (directions, 4H, I) and R (directions, 4H, H): each step multiplies a row by both."""
    directions, gates, width = graph.constant_tensor(node.inputs[1]).shape.numpy()  # type: ignore[union-attr]
    depth = width + gates // 4
    steps, batch = (*_sizes(node.inputs[0]), None, None)[:2]
    row = gates * depth * costs.saved_per_mac - depth * costs.convert - 2 * gates * costs.rescale
    return float(directions * ((steps or FREE_DIM) * ((batch or 1) * row - costs.step) - costs.launch))


def _rows(node: ir.Node) -> float:
    """How many rows the activation has: the product of all its axes but the last. An unknown first axis counts as 1."""
    sizes = _sizes(node.inputs[0])
    if len(sizes) < 2:
        return 1.0 if sizes else FREE_DIM
    return float(math.prod((1 if sizes[0] is None else sizes[0], *(size or FREE_DIM for size in sizes[1:-1]))))


def _weight_sizes(node: ir.Node) -> tuple[int, int]:
    """(depth, columns) of a weight of any rank; a vector has one column, and a stack counts as one wide matrix."""
    shape = tuple(graph.constant_tensor(node.inputs[1]).shape.numpy())  # type: ignore[union-attr]
    if len(shape) == 1:
        return shape[0], 1
    depth = shape[-1] if graph.attribute_int(node, "transB", 0) else shape[-2]
    return depth, math.prod(shape) // max(depth, 1)


def _sizes(value: ir.Value | None) -> tuple[int | None, ...]:
    """The shape, with None for unknown sizes; empty when the rank is unknown."""
    return graph.known_dims(value) or ()
