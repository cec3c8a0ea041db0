"""Fold per-channel Mul, Add, Sub and Div by constants into the convolution behind or before them."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._conv import (
    Absorbed,
    Conv,
    absorb_before,
    absorb_behind,
    as_convolution,
    convolution_before,
    replace_tail,
    store,
)
from modelopt.passes._rewrite import Rewrite, rewrite_nodes
from modelopt.passes.base import Changes, Context, Effect, Pass
from modelopt.passes.fuse_hardswish import is_part

_OPERATORS = ("Mul", "Add", "Sub", "Div")


class FuseConvAffine(Pass):
    """Fold Mul, Add, Sub or Div by constants into the weights of the convolution before or behind them.

    With a constant ``c`` that is one number or one number per channel each is a map ``a · x + s``: Mul ``(c, 0)``, Add
    ``(1, c)``, Sub ``(1, -c)`` or, as ``c - x``, ``(-1, c)``, Div ``(1/c, 0)``. Computed in float64 and cast back.

    Behind a Conv or ConvTranspose the output channels absorb it: ``W ← a · W``, ``b ← a · b + s``. Before a Conv the
    input channels do: ``W ← a · W``, ``b ← b + Σ s · W``. There ``s`` is refused with padding, which adds zeros after
    the map, and where it centres a graph input: subtracting before the sum keeps digits.

    Under ONNX broadcasting (Add-7 and later: shapes aligned at the right) a constant is per channel when its shape,
    with ones put before it up to the rank of ``x``, is ``(1, C, 1, …)``. Any other shape scales positions or makes the
    output larger, and is refused; so is every opset below 7, where attributes ruled broadcasting.

    The addition of 3 and the division by 6 of a hardswish are left to fuse-hardswish: the two run in any order.
    """

    name: ClassVar[str] = "fuse-conv-affine"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fold every such operator, one after the other where there are several."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model)))


def _rule(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    if graph.is_standard(node, "Conv"):
        return _before(names, node, opset)
    if _is_affine(node):
        return _behind(names, node, opset)
    return match.NOT_HERE


def _is_affine(node: ir.Node) -> bool:
    return any(graph.is_standard(node, op_type) for op_type in _OPERATORS) and match.split_constant(node) is not None


def _behind(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    """`node` scales or shifts the output of a convolution."""
    conv = convolution_before(_variable(node), node)
    if isinstance(conv, Mismatch):
        return conv
    affine = _read(node, opset, conv.outputs, conv.rank)
    absorbed = affine if isinstance(affine, Mismatch) else absorb_behind(conv, *affine)
    return absorbed if isinstance(absorbed, Mismatch) else partial(replace_tail, conv, absorbed, node, names)


def _before(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    """`node` is a Conv whose input is scaled or shifted."""
    affine_node = None if node.inputs[0] is None else node.inputs[0].producer()
    if affine_node is None or not _is_affine(affine_node):
        return match.NOT_HERE
    if affine_node.graph is not node.graph:
        return Mismatch(f"{graph.label(affine_node)} is in an outer scope")
    if graph.sole_consumer(affine_node.outputs[0]) is None:
        return Mismatch(f"{graph.label(affine_node)} has to stay: {graph.why_not_sole(affine_node.outputs[0])}")
    conv = as_convolution(node)
    if isinstance(conv, Mismatch):
        return conv
    affine = _read(affine_node, opset, conv.inputs, conv.rank)
    if isinstance(affine, Mismatch):
        return affine
    x = _variable(affine_node)
    if np.any(affine[1] != 0) and (reason := _why_no_shift(node, x)):
        return Mismatch(reason)
    absorbed = absorb_before(conv, *affine)
    return absorbed if isinstance(absorbed, Mismatch) else partial(_replace_head, conv, absorbed, affine_node, x, names)


def _variable(node: ir.Node) -> ir.Value:
    operands = match.split_constant(node)
    if operands is None:
        raise ValueError(f"{graph.label(node)} has no constant operand")
    return operands[0]


def _why_no_shift(conv: ir.Node, x: ir.Value) -> str | None:
    pads = graph.attribute_ints(conv, "pads") or ()
    if any(pads) or graph.attribute_string(conv, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return "the convolution pads its input with zeros after the shift"
    return "the shift centres a graph input" if x.is_graph_input() else None


def _replace_head(conv: Conv, absorbed: Absorbed, head: ir.Node, x: ir.Value, names: graph.NameSource) -> None:
    store(conv, absorbed, names)
    conv.node.replace_input_with(0, x)
    graph.remove_with_constants(head)


def _read(node: ir.Node, opset: int, channels: int, rank: int) -> tuple[np.ndarray, np.ndarray] | Mismatch:
    """(a, s), float64 of shape (channels,), such that `node` is ``a · x + s`` for an ``x`` of `rank` axes."""
    operands = match.split_constant(node)
    tensor = None if operands is None else graph.constant_tensor(operands[1])
    if operands is None or tensor is None:
        return match.NOT_HERE
    if opset < 7:
        return Mismatch(f"{node.op_type} of opset {opset} broadcasts by attributes")
    if is_part(node, opset):
        return Mismatch(f"{graph.label(node)} is part of a hardswish, of which fuse-hardswish makes more")
    shape = tuple(tensor.shape.numpy())
    if len(shape) > rank:
        return Mismatch(f"the constant of shape {shape} raises the rank")
    if tensor.size != 1 and (1,) * (rank - len(shape)) + shape != (1, channels, *(1,) * (rank - 2)):
        return Mismatch(f"the constant of shape {shape} is not one number per channel")
    c = np.broadcast_to(tensor.numpy().astype(np.float64).reshape(-1), channels)
    return _affine(node, c, constant_first=node.inputs[0] is operands[1])


def _affine(node: ir.Node, c: np.ndarray, *, constant_first: bool) -> tuple[np.ndarray, np.ndarray] | Mismatch:
    one, zero = np.ones_like(c), np.zeros_like(c)
    if node.op_type == "Mul":
        return c, zero
    if node.op_type == "Add":
        return one, c
    if node.op_type == "Sub":
        return (-one, c) if constant_first else (one, -c)
    if constant_first:
        return Mismatch("the variable is the divisor")
    return (1 / c, zero) if c.all() else Mismatch("it divides by zero")
