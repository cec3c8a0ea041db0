"""The core that decomposed normalizations share: (x − mean) / √(variance + ε), or x / √(mean of squares + ε)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.patterns.rewriter import number


@dataclass(frozen=True)
class Core:
    """A normalization without its scale and bias.

    Attributes:
        last: The node that divides.
        x: What is normalized.
        axes: What is averaged over, as written: negative ones count from the end.
        epsilon: The constant under the root, as a value.
        inner: The other nodes.
        centered: Whether the mean is subtracted first.
    """

    last: ir.Node
    x: ir.Value
    axes: tuple[int, ...]
    epsilon: ir.Value
    inner: tuple[ir.Node, ...]
    centered: bool

    def normalized_axes(self) -> tuple[int, ...] | None:
        """The axes counted from the end and sorted; None where that takes a rank that is not known."""
        rank = graph.rank(self.x)
        if all(axis < 0 for axis in self.axes):
            return tuple(sorted(self.axes))
        return None if rank is None else tuple(sorted(axis if axis < 0 else axis - rank for axis in self.axes))


@dataclass(frozen=True)
class ScaleAndShift:
    """What follows a core: ``· scale + bias``, each None where it is not there.

    Attributes:
        last: The last node of the whole pattern.
        inner: The nodes of core and affine but for `last`.
        scale: A constant.
        bias: A constant.
    """

    last: ir.Node
    inner: tuple[ir.Node, ...]
    scale: ir.Value | None
    bias: ir.Value | None


def find(node: ir.Node) -> Core | None:
    """The core that `node` ends: a Div by the root, or a Mul by its Reciprocal."""
    parts = _divided_by_root(node)
    if parts is None:
        return None
    numerator, root, between = parts
    variance = _variance(root)
    if variance is None:
        return None
    mean, epsilon, under_root = variance
    squares = _square(mean.inputs[0])
    if squares is None or (axes := _mean_axes(mean)) is None:
        return None
    base, square = squares
    inner = [*between, *under_root, mean, square]
    if base is numerator:
        centered = _centered(numerator)
        if centered is None or centered[2] != axes:
            return Core(node, numerator, axes, epsilon, tuple(inner), centered=False)
        return Core(node, centered[0], axes, epsilon, (*inner, *centered[1]), centered=True)
    left, right = _centered(numerator), _centered(base)
    if left is None or right is None or left[0] is not right[0] or not left[2] == right[2] == axes:
        return None
    return Core(node, left[0], axes, epsilon, (*inner, *left[1], *right[1]), centered=True)


def affine(
    core: Core, shapes: frozenset[tuple[int, ...]], operators: tuple[str, ...] = ("Mul", "Add")
) -> ScaleAndShift:
    """The scale and the bias that follow, as far as their shapes are among `shapes`."""
    last, inner = core.last, core.inner
    found: dict[str, ir.Value] = {}
    for op_type in operators:
        follower = graph.sole_consumer(last.outputs[0])
        operands = match.split_constant(follower) if follower and graph.is_standard(follower, op_type) else None
        if follower is None or operands is None or follower.graph is not last.graph:
            continue
        constant = graph.constant_tensor(operands[1])
        if constant is None or tuple(constant.shape.numpy()) not in shapes:
            break
        found[op_type] = operands[1]
        last, inner = follower, (last, *inner)
    return ScaleAndShift(last, inner, found.get("Mul"), found.get("Add"))


def weights(
    core: Core, found: ScaleAndShift, size: int, names: graph.NameSource, *, with_bias: bool
) -> tuple[ir.Value, ir.Value | None]:
    """Scale and bias of shape (size,): the constants as they are where their shape is that, else copies."""
    tensor = graph.constant_tensor(core.epsilon)
    dtype = np.float32 if tensor is None else tensor.numpy().dtype

    def flat(value: ir.Value | None, stem: str, default: float) -> ir.Value:
        stored = graph.constant(value)
        if value is not None and stored is not None and stored.shape == (size,):
            return value
        array = np.full(size, default, dtype) if stored is None else stored
        like = core.epsilon if value is None else value
        name = names(f"{core.last.outputs[0].name}_{stem}")
        return graph.constant_beside(like, core.last, name, np.broadcast_to(np.ravel(array), size))

    scale = flat(found.scale, "scale", 1)
    return scale, flat(found.bias, "bias", 0) if with_bias or found.bias is not None else None


def epsilon_of(core: Core) -> float:
    """The number under the root."""
    return number(core.epsilon) or 0.0


def _divided_by_root(node: ir.Node) -> tuple[ir.Value, ir.Node, list[ir.Node]] | None:
    """The numerator, the root, and what is between, when `node` is ``n / root`` or ``n · (1 / root)``."""
    if graph.is_standard(node, "Div") and node.inputs[0] is not None:
        root = _root(node.inputs[1])
        return None if root is None else (node.inputs[0], root, [root])
    if not graph.is_standard(node, "Mul"):
        return None
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        inverse = match.producer(other, "Reciprocal")
        if inverse is None and (inverse := match.producer(other, "Div")) is not None:
            inverse = inverse if number(inverse.inputs[0]) == 1 else None
        root = None if inverse is None else _root(inverse.inputs[-1])
        if value is not None and inverse is not None and root is not None:
            return value, root, [inverse, root]
    return None


def _root(value: ir.Value | None) -> ir.Node | None:
    root = match.producer(value, "Sqrt")
    if root is not None:
        return root
    power = match.producer(value, "Pow")
    return power if power is not None and number(power.inputs[1]) == 0.5 else None


def _variance(root: ir.Node) -> tuple[ir.Node, ir.Value, list[ir.Node]] | None:
    """The mean under the root, the epsilon added to it, and the addition."""
    add = match.producer(root.inputs[0], "Add")
    operands = None if add is None else match.split_constant(add)
    mean = None if operands is None else match.producer(operands[0], "ReduceMean")
    if add is None or operands is None or mean is None:
        return None
    epsilon = number(operands[1])
    return (mean, operands[1], [add]) if epsilon is not None and epsilon >= 0 else None


def _square(value: ir.Value | None) -> tuple[ir.Value, ir.Node] | None:
    power = match.producer(value, "Pow")
    if power is not None and power.inputs[0] is not None and number(power.inputs[1]) == 2:
        return power.inputs[0], power
    product = match.producer(value, "Mul")
    if product is not None and product.inputs[0] is product.inputs[1] and product.inputs[0] is not None:
        return product.inputs[0], product
    return None


def _centered(value: ir.Value) -> tuple[ir.Value, list[ir.Node], tuple[int, ...]] | None:
    """``x``, the nodes and the axes, when `value` is ``x - mean(x)``."""
    difference = match.producer(value, "Sub")
    mean = None if difference is None else match.producer(difference.inputs[1], "ReduceMean")
    if difference is None or mean is None or difference.inputs[0] is None:
        return None
    axes = _mean_axes(mean)
    same = mean.inputs[0] is difference.inputs[0]
    return (difference.inputs[0], [difference, mean], axes) if same and axes else None


def _mean_axes(mean: ir.Node) -> tuple[int, ...] | None:
    """The axes of a ReduceMean that keeps them with size 1: an attribute below opset 18, then an input."""
    if graph.attribute_int(mean, "keepdims", 1) != 1:
        return None
    return graph.ints_of(mean, 1, "axes") or None
