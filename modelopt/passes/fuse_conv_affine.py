"""Fold a per-channel Mul, Add, Sub or Div by a constant into the convolution before it."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._conv import Conv, absorb, convolution_before, replace_tail
from modelopt.passes._rewrite import Rewrite, rewrite_nodes
from modelopt.passes.base import Changes, Context, Effect, Pass

_OPERATORS = frozenset({"Mul", "Add", "Sub", "Div"})


class FuseConvAffine(Pass):
    """Fold Mul, Add, Sub or Div by a constant into the weights of the Conv or ConvTranspose before it.

    With a constant ``c`` that is one number or one number per output channel, each is ``a · x + s`` for the convolution's
    output ``x``: Mul ``(c, 0)``, Add ``(1, c)``, Sub ``(1, -c)`` or ``c - x = (-1, c)``, Div ``(1/c, 0)``. The convolution absorbs
    it: ``W ← a · W`` along the output channels, ``b ← a · b + s``. Computed in float64 and cast back.

    Under ONNX broadcasting (Add-7 and later: shapes aligned at the right) a constant is per channel when its shape,
    with ones put before it up to the rank of ``x``, is ``(1, C, 1, …)``. Any other shape scales positions or makes the output
    larger, and is refused; so is every opset below 7, where attributes ruled broadcasting.
    """

    name: ClassVar[str] = "fuse-conv-affine"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:  # noqa: ARG002
        """Fold every such operator, one after the other where a convolution is followed by several."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model)))


def _rule(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    if node.op_type not in _OPERATORS or not graph.is_standard(node, node.op_type):
        return match.NOT_HERE
    operands = match.split_constant(node)
    if operands is None:
        return match.NOT_HERE
    variable, constant = operands
    conv = convolution_before(variable, node)
    if isinstance(conv, Mismatch):
        return conv
    if opset < 7:
        return Mismatch(f"opset {opset} broadcasts by attributes")
    channels = _per_channel(constant, conv)
    if isinstance(channels, Mismatch):
        return channels
    affine = _affine(node, channels, constant_first=node.inputs[0] is constant)
    if isinstance(affine, Mismatch):
        return affine
    absorbed = absorb(conv, *affine)
    if isinstance(absorbed, Mismatch):
        return absorbed
    return partial(replace_tail, conv, absorbed, node, names)


def _per_channel(constant: ir.Value, conv: Conv) -> np.ndarray | Mismatch:
    """The constant as one float64 number per output channel."""
    tensor = graph.constant_tensor(constant)
    if tensor is None:
        return match.NOT_HERE
    shape = tuple(tensor.shape.numpy())
    if len(shape) > conv.rank:
        return Mismatch(f"the constant of shape {shape} raises the rank of the output")
    if tensor.size == 1:
        return np.full(conv.channels, tensor.numpy().item(), np.float64)
    if (1,) * (conv.rank - len(shape)) + shape != (1, conv.channels, *(1,) * (conv.rank - 2)):
        return Mismatch(f"the constant of shape {shape} is not one number per output channel")
    return tensor.numpy().astype(np.float64).reshape(-1)


def _affine(node: ir.Node, c: np.ndarray, *, constant_first: bool) -> tuple[np.ndarray, np.ndarray] | Mismatch:
    """(a, s) such that the operator is ``a · x + s``."""
    one, zero = np.ones_like(c), np.zeros_like(c)
    if node.op_type == "Mul":
        return c, zero
    if node.op_type == "Add":
        return one, c
    if node.op_type == "Sub":
        return (-one, c) if constant_first else (one, -c)
    if constant_first:
        return Mismatch("the convolution is the divisor")
    if not c.all():
        return Mismatch("it divides by zero")
    return one / c, zero
