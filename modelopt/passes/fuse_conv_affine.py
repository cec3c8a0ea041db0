"""Fold per-channel Mul, Add, Sub and Div by constants into the convolution behind or before them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.affine import is_affine, per_channel, variable
from modelopt.patterns.convolution import (
    Absorbed,
    Conv,
    absorb_before,
    absorb_behind,
    as_convolution,
    convolution_before,
    replace_tail,
    store,
)
from modelopt.patterns.rewriter import Rewrite


class FuseConvAffine(RewritePass):
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

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Conv behind a map, or the map behind a convolution."""
        if graph.is_standard(node, "Conv"):
            return _before(names, node, opset)
        if is_affine(node):
            return _behind(names, node, opset)
        return match.NOT_HERE


def _behind(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    """`node` scales or shifts the output of a convolution."""
    conv = convolution_before(variable(node), node)
    if isinstance(conv, Mismatch):
        return conv
    affine = per_channel(node, opset, conv.outputs, conv.rank)
    absorbed = affine if isinstance(affine, Mismatch) else absorb_behind(conv, *affine)
    return absorbed if isinstance(absorbed, Mismatch) else partial(replace_tail, conv, absorbed, node, names)


def _before(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    """`node` is a Conv whose input is scaled or shifted."""
    affine_node = None if node.inputs[0] is None else node.inputs[0].producer()
    if affine_node is None or not is_affine(affine_node):
        return match.NOT_HERE
    if affine_node.graph is not node.graph:
        return Mismatch(f"{graph.label(affine_node)} is in an outer scope")
    if graph.sole_consumer(affine_node.outputs[0]) is None:
        return Mismatch(f"{graph.label(affine_node)} has to stay: {graph.why_not_sole(affine_node.outputs[0])}")
    conv = as_convolution(node)
    if isinstance(conv, Mismatch):
        return conv
    affine = per_channel(affine_node, opset, conv.inputs, conv.rank)
    if isinstance(affine, Mismatch):
        return affine
    x = variable(affine_node)
    if np.any(affine[1] != 0) and (reason := _why_no_shift(node, x)):
        return Mismatch(reason)
    absorbed = absorb_before(conv, *affine)
    return absorbed if isinstance(absorbed, Mismatch) else partial(_replace_head, conv, absorbed, x, names)


def _why_no_shift(conv: ir.Node, x: ir.Value) -> str | None:
    pads = graph.attribute_ints(conv, "pads") or ()
    if any(pads) or graph.attribute_string(conv, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return "the convolution pads its input with zeros after the shift"
    return "the shift centres a graph input" if x.is_graph_input() else None


def _replace_head(conv: Conv, absorbed: Absorbed, x: ir.Value, names: graph.NameSource) -> None:
    store(conv, absorbed, names)
    conv.node.replace_input_with(0, x)
