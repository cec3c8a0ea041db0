"""Absorbing a per-channel affine map into the weights of a convolution, for the passes that fuse one.

Convolution is linear in its input, in ``W`` and in ``b``. A map behind it, one number per output channel, goes into
both: ``scale · Conv(x, W, b) + shift = Conv(x, scale · W, scale · b + shift)``, whatever the padding. A map before it,
one number per input channel, likewise: ``Conv(scale · x + shift, W, b) = Conv(x, scale · W, b + Σ shift · W)``, where a
shift needs a convolution without padding: padding is zeros of the shifted input.

Conv-11 stores ``W`` as (C_out, C_in/group, k…), ConvTranspose-11 as (C_in, C_out/group, k…).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS

MAX_COPY_BYTES = 16 * 1024
"""A weight that other nodes use too is copied for this node up to this size; larger copies make the file grow.

That is a bias of 4096 channels in float32."""


@dataclass(frozen=True)
class Conv:
    """A convolution whose weights are constant.

    Attributes:
        node: Conv or ConvTranspose.
        weight: Its ``W`` as stored.
        inputs: C_in.
        outputs: C_out.
        group: The number of groups.
    """

    node: ir.Node
    weight: ir.TensorProtocol
    inputs: int
    outputs: int
    group: int

    @property
    def rank(self) -> int:
        """The number of axes of its input, weight and output."""
        return len(self.weight.shape)


@dataclass(frozen=True)
class Absorbed:
    """New weights for a convolution, of the dtype and shape that they had.

    Attributes:
        weight: None when it stays.
        bias: Shape (C_out,), None when there is none and none is needed.
    """

    weight: np.ndarray | None
    bias: np.ndarray | None


def as_convolution(node: ir.Node) -> Conv | Mismatch:
    """`node` as a convolution whose weights can be computed with."""
    if not (graph.is_standard(node, "Conv") or graph.is_standard(node, "ConvTranspose")):
        return match.NOT_HERE
    weight = graph.constant_tensor(node.inputs[1])
    if weight is None:
        return Mismatch("the convolution's weight is not constant")
    if weight.dtype not in IEEE_FLOATS:
        return Mismatch(f"the convolution's weight is {weight.dtype.name.lower()}")
    group, shape = graph.attribute_int(node, "group", 1), weight.shape.numpy()
    if len(shape) < 3 or 0 in shape or group < 1 or shape[0] % group:
        return Mismatch(f"a weight of shape {tuple(shape)} is none for {group} groups")
    first, second = shape[:2]
    inputs, outputs = (second * group, first) if node.op_type == "Conv" else (first, second * group)
    return Conv(node, weight, inputs, outputs, group)


def convolution_before(value: ir.Value | None, tail: ir.Node) -> Conv | Mismatch:
    """The convolution that makes `value` for `tail` alone."""
    node = match.producer(value, "Conv") or match.producer(value, "ConvTranspose")
    if node is None:
        return match.NOT_HERE
    if node.graph is not tail.graph:
        return Mismatch("the convolution is in an outer scope")
    if graph.sole_consumer(node.outputs[0]) is None:
        return Mismatch(f"the convolution is needed as it is: {graph.why_not_sole(node.outputs[0])}")
    return as_convolution(node)


def absorb_behind(conv: Conv, scale: np.ndarray, shift: np.ndarray) -> Absorbed | Mismatch:
    """The weights with which `conv` computes ``scale · conv + shift``; both are float64 of shape (C_out,)."""
    bias = bias_of(conv)
    if isinstance(bias, Mismatch):
        return bias
    output_axis = 1 if conv.node.op_type == "Conv" else 2
    weight = _grouped(conv) * _along(output_axis, conv, scale) if np.any(scale != 1) else None
    return rounded(conv, weight, scale * bias + shift)


def absorb_before(conv: Conv, scale: np.ndarray, shift: np.ndarray) -> Absorbed | Mismatch:
    """The weights with which a Conv of ``x`` computes that of ``scale · x + shift``; float64 of shape (C_in,)."""
    bias = bias_of(conv)
    if isinstance(bias, Mismatch):
        return bias
    weight = _grouped(conv)
    moved = (weight * _along(2, conv, shift)).sum(axis=(2, 3)).reshape(-1)
    return rounded(conv, weight * _along(2, conv, scale) if np.any(scale != 1) else None, bias + moved)


def bias_of(conv: Conv) -> np.ndarray | Mismatch:
    """The bias as float64 of shape (C_out,)."""
    value = graph.input_at(conv.node, 2)
    if value is None:
        return np.zeros(conv.outputs)
    array = graph.constant(value)
    if array is None:
        return Mismatch("the convolution's bias is not constant")
    if array.shape != (conv.outputs,):
        return Mismatch(f"a bias of shape {array.shape} is none for {conv.outputs} channels")
    return array.astype(np.float64)


def _grouped(conv: Conv) -> np.ndarray:
    """``W`` as float64 of shape (group, C_out/group, C_in/group, k); the middle two swapped for ConvTranspose."""
    wide = conv.weight.numpy().astype(np.float64)
    return wide.reshape(conv.group, wide.shape[0] // conv.group, wide.shape[1], -1)


def _along(axis: int, conv: Conv, channels: np.ndarray) -> np.ndarray:
    shape = [conv.group, 1, 1, 1]
    shape[axis] = -1
    return channels.reshape(shape)


def rounded(conv: Conv, weight: np.ndarray | None, bias: np.ndarray) -> Absorbed | Mismatch:
    """The float64 results as the convolution's dtype, unless that cannot hold them or the file would grow.

    `weight` has as many elements as the old one, in the same order; None leaves that as it is.
    """
    dtype = conv.weight.dtype.numpy()
    new_weight = new_bias = None
    if weight is not None:
        if len(_input(conv.node, 1).uses()) > 1 and conv.weight.nbytes > MAX_COPY_BYTES:
            return Mismatch(f"other nodes use its weight too, and a copy would add {conv.weight.nbytes} bytes")
        new_weight = _cast(weight.reshape(conv.weight.shape.numpy()), dtype)
    if np.any(bias != 0) or graph.input_at(conv.node, 2) is not None:
        new_bias = _cast(bias, dtype)
    if isinstance(new_weight, Mismatch) or isinstance(new_bias, Mismatch):
        return Mismatch(f"{dtype} does not hold the new weights")
    return Absorbed(new_weight, new_bias)


def _cast(wide: np.ndarray, dtype: np.dtype) -> np.ndarray | Mismatch:
    """`wide` rounded to `dtype`; a Mismatch when that overflows, or underflows beyond the rounding of the largest."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = wide.astype(dtype)
        worst = np.abs(narrow.astype(np.float64) - wide).max(initial=0.0)
        limit = np.finfo(dtype).eps * np.abs(wide).max(initial=0.0)
    return narrow if worst <= limit and not is_huge(wide, dtype) else Mismatch("it does not fit")


def is_huge(wide: np.ndarray, dtype: np.dtype) -> bool:
    """Whether sums of such numbers overflow in one order and not in another."""
    # A sum of 1e13 numbers below the bound stays in range. For float16 the bound would be below its smallest number.
    return bool(dtype.itemsize > 2 and np.abs(wide).max(initial=0.0) > np.finfo(dtype).max * 1e-13)


def store(conv: Conv, absorbed: Absorbed, names: graph.NameSource) -> None:
    """Give `conv` its new weights."""
    if absorbed.weight is not None:
        _set_input(conv.node, 1, absorbed.weight, names)
    if absorbed.bias is not None:
        _set_input(conv.node, 2, absorbed.bias, names)


def replace_tail(conv: Conv, absorbed: Absorbed, tail: ir.Node, names: graph.NameSource) -> None:
    """Give `conv` its new weights and let it take the place of `tail`, whose output keeps its name in the signature."""
    store(conv, absorbed, names)
    graph.replace_value(tail.outputs[0], conv.node.outputs[0])


def _set_input(node: ir.Node, index: int, array: np.ndarray, names: graph.NameSource) -> None:
    node.resize_inputs(max(index + 1, len(node.inputs)))
    value = node.inputs[index]
    if value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        graph.set_constant(value, array)
        return
    weight = _input(node, 1)
    stem = f"{weight.name}_bias" if value is None else f"{value.name}"
    node.replace_input_with(index, graph.constant_beside(value or weight, node, names(stem), array))
    graph.drop_unused_constants([value])


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{graph.label(node)} lacks input {index}")
    return value
