"""Absorbing a per-channel affine map into the weights of a convolution, for the passes that fuse one.

Convolution is linear in its input, in ``W`` and in ``b``. A map behind it, one number per output channel, goes into both:
``scale · Conv(x, W, b) + shift = Conv(x, scale · W, scale · b + shift)``, whatever the padding. A map before it, one
number per input channel, likewise: ``Conv(scale · x + shift, W, b) = Conv(x, scale · W, b + Σ shift · W)``, where a shift
needs a convolution without padding: padding is zeros of the shifted input.

Conv-11 stores ``W`` as (C_out, C_in/group, k…), ConvTranspose-11 as (C_in, C_out/group, k…).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch

MAX_COPY_BYTES = 16 * 1024
"""A weight that other nodes use too is copied for this node up to this size; beyond it the file would grow."""

_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Conv:
    """A convolution whose weights are constant.

    Attributes:
        node: Conv or ConvTranspose.
        weight: Its ``W`` as stored.
        inputs: C_in.
        outputs: C_out.
        group: How many groups of channels are convolved apart.
    """

    node: ir.Node
    weight: ir.TensorProtocol
    inputs: int
    outputs: int
    group: int

    @property
    def rank(self) -> int:
        """Axes of its input, weight and output."""
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
    if weight.dtype not in _FLOATS:
        return Mismatch(f"the convolution's weight is {weight.dtype.name.lower()}")
    group = graph.attribute_int(node, "group", 1)
    first, second = weight.shape.numpy()[:2]
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
    bias = _bias(conv)
    if isinstance(bias, Mismatch):
        return bias
    weight = None
    if np.any(scale != 1):
        # Output channel c of ConvTranspose is column c % (C_out/group) of the rows of its group c // (C_out/group).
        per_group = (1, -1, 1) if conv.node.op_type == "Conv" else (conv.group, 1, -1)
        weight = _scaled(conv, scale, per_group)
    return _stored(conv, weight, scale * bias + shift)


def absorb_before(conv: Conv, scale: np.ndarray, shift: np.ndarray) -> Absorbed | Mismatch:
    """The weights with which a Conv of ``x`` computes that of ``scale · x + shift``; float64 of shape (C_in,)."""
    bias = _bias(conv)
    if isinstance(bias, Mismatch):
        return bias
    wide = conv.weight.numpy().astype(np.float64)
    # Input channel c of Conv is column c % (C_in/group) of the rows of its group c // (C_in/group).
    rows = wide.reshape(conv.group, conv.outputs // conv.group, conv.inputs // conv.group, -1)
    per_group = (conv.group, 1, conv.inputs // conv.group, 1)
    bias = bias + (rows * shift.reshape(per_group)).sum(axis=(2, 3)).reshape(-1)
    weight = (rows * scale.reshape(per_group)).reshape(wide.shape) if np.any(scale != 1) else None
    return _stored(conv, weight, bias)


def _bias(conv: Conv) -> np.ndarray | Mismatch:
    """The bias as float64 of shape (C_out,)."""
    value = conv.node.inputs[2] if len(conv.node.inputs) > 2 else None
    if value is None:
        return np.zeros(conv.outputs)
    array = graph.constant(value)
    return Mismatch("the convolution's bias is not constant") if array is None else array.astype(np.float64)


def _scaled(conv: Conv, scale: np.ndarray, layout: tuple[int, ...]) -> np.ndarray:
    wide = conv.weight.numpy().astype(np.float64)
    rows, columns = wide.shape[:2]
    group = max(1, layout[0])
    return (wide.reshape(group, rows // group, columns, -1) * scale.reshape(*layout, 1)).reshape(wide.shape)


def _stored(conv: Conv, weight: np.ndarray | None, bias: np.ndarray) -> Absorbed | Mismatch:
    """Float64 results as the convolution's dtype, unless it cannot hold them or the file would grow."""
    value = conv.node.inputs[1]
    if weight is not None and value is not None and len(value.uses()) > 1 and conv.weight.nbytes > MAX_COPY_BYTES:
        return Mismatch(f"other nodes use its weight too, and a copy would add {conv.weight.nbytes} bytes")
    dtype = conv.weight.dtype.numpy()
    new_weight, new_bias = (None if wide is None else _cast(wide, dtype) for wide in (weight, bias))
    if isinstance(new_weight, Mismatch) or isinstance(new_bias, Mismatch):
        return Mismatch(f"{dtype} does not hold the new weights")
    has_bias = len(conv.node.inputs) > 2 and conv.node.inputs[2] is not None
    return Absorbed(new_weight, new_bias if has_bias or np.any(bias != 0) else None)
