"""Fuse Pad into the padding of the Conv, MaxPool or AveragePool behind it."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite

_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")

_LARGEST_KERNEL = 7


class FusePad(RewritePass):
    """Fuse a Pad by a constant into the `pads` of the Conv, MaxPool or AveragePool behind it.

    Conv pads with zeros: a Pad with 0 on spatial axes adds to its `pads`. MaxPool pads with what is never the largest:
    so does a Pad with -inf, and a Pad with 0 of what is never negative (behind Relu), as each window holds a value of
    its own. AveragePool pads with zeros that it does not count: behind a Pad with 0 it has to count them
    (`count_include_pad`, since opset 7), so its own `pads`, if any, must be counted too.

    For NaN nothing is promised behind MaxPool: the specification does not define it, and onnxruntime keeps or drops it
    by its position in the window, which both kinds of padding change (AveragePool and Conv keep it).

    Pools need pads smaller than their kernel (onnxruntime refuses others), and `ceil_mode` 0: their last window may lie
    outside of what was padded.

    It has to be faster: onnxruntime's convolutions compute the padded border separately, and slower for each element.
    Measured against Pad and Conv, 3×3 to 7×7 kernels gain 1.03 to 1.5 times, but 15×15 ones, and k×1 ones over a width
    of 1, take 1.4 to 4 times as long. So kernels over 7, and those of 1 along the last of several axes, are refused.
    """

    finite_only: ClassVar[bool] = True  # onnxruntime's MaxPool skips NaN, or not, by where it stands in a window

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Conv, MaxPool or AveragePool."""
        if not any(graph.is_standard(node, op_type) for op_type in ("Conv", "MaxPool", "AveragePool")):
            return match.NOT_HERE
        pad = match.producer(node.inputs[0], "Pad")
        if pad is None:
            return match.NOT_HERE
        if graph.sole_consumer(pad.outputs[0]) is None:
            return Mismatch(f"{graph.label(pad)} has to stay: {graph.why_not_sole(pad.outputs[0])}")
        pads = _pads(pad, node, opset)
        if isinstance(pads, Mismatch):
            return pads
        axes = len(pads) // 2 - 2
        old = graph.attribute_ints(node, "pads") or (0,) * 2 * axes
        if graph.attribute_string(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
            return Mismatch("the padding depends on the size of the input")
        if axes < 1 or len(old) != 2 * axes:
            return Mismatch("the two do not agree in rank")
        if any(pads[:2]) or any(pads[axes + 2 : axes + 4]) or min(pads) < 0:
            return Mismatch("it pads other axes than the spatial ones, or cuts")
        new = tuple(a + b for a, b in zip(old, pads[2 : axes + 2] + pads[axes + 4 :], strict=True))
        reason = _why_not(node, pad, opset, old, new)
        return Mismatch(reason) if reason else partial(_rewrite, node, pad, new)


def _pads(pad: ir.Node, node: ir.Node, opset: int) -> tuple[int, ...] | Mismatch:
    """The begin of each axis, then the end of each; the rank may be known of the output of `node` alone."""
    if graph.attribute_string(pad, "mode", "constant") != "constant":
        return Mismatch("it does not pad with a constant")
    if opset < 11:
        return graph.attribute_ints(pad, "pads") or Mismatch("it has no pads")
    pads = graph.constant_ints(pad.inputs[1])
    if pads is None:
        return Mismatch("the pads are not constant")
    if len(pad.inputs) < 4 or pad.inputs[3] is None:
        return pads
    axes = graph.constant_ints(pad.inputs[3])
    rank = next(
        (graph.rank(value) for value in (*pad.inputs[:1], *pad.outputs, *node.outputs) if graph.rank(value)), None
    )
    if axes is None or rank is None:
        return Mismatch("the axes are not constant, or the rank is not known")
    dense = np.zeros((2, rank), np.int64)
    dense[:, list(axes)] = np.reshape(pads, (2, -1))
    return tuple(int(number) for number in dense.reshape(-1))


def _fill(pad: ir.Node, opset: int) -> float | None:
    """The number it pads with; None when that is computed."""
    if opset < 11:
        return graph.attribute_float(pad, "value", 0.0)
    if len(pad.inputs) < 3 or pad.inputs[2] is None:
        return 0.0
    number = graph.scalar(pad.inputs[2])
    return None if number is None else float(number)


def _why_not(node: ir.Node, pad: ir.Node, opset: int, old: tuple[int, ...], new: tuple[int, ...]) -> str | None:
    fill, kernel = _fill(pad, opset), _kernel(node)
    if kernel is None:
        return "the size of the kernel is not known"
    if max(kernel) > _LARGEST_KERNEL or (len(kernel) > 1 and kernel[-1] == 1):
        return f"onnxruntime is faster at Pad and {node.op_type} with a kernel of {'×'.join(map(str, kernel))}"
    if node.op_type == "Conv":
        return None if fill == 0 else f"it pads with {fill}, Conv with 0"
    if graph.attribute_int(node, "ceil_mode", 0):
        return "ceil_mode rounds the size up"
    if any(amount >= size for amount, size in zip(new, kernel * 2, strict=True)):
        return "the pads are not smaller than the kernel"
    if len(node.outputs) > 1:
        return "the indices of the pool count padded positions"
    if node.op_type == "AveragePool":
        if opset < 7:
            return f"AveragePool of opset {opset} does not count padding"
        if any(old) and not graph.attribute_int(node, "count_include_pad", 0):
            return "it counts one part of the padding and not the other"
        return None if fill == 0 else f"it pads with {fill}, AveragePool with 0"
    if fill == 0 and not any(match.producer(pad.inputs[0], op_type) for op_type in _NOT_NEGATIVE):
        return "0 may be larger than what the pool sees"
    return None if fill in {0, -np.inf} else f"it pads with {fill}"


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    given = graph.attribute_ints(node, "kernel_shape")
    if given is None and node.op_type == "Conv" and node.inputs[1] is not None:
        given = (graph.static_shape(node.inputs[1]) or ())[2:]
    return given or None


def _rewrite(node: ir.Node, pad: ir.Node, pads: tuple[int, ...]) -> None:
    node.attributes.pop("auto_pad", None)
    node.attributes.add(ir.AttrInt64s("pads", pads))
    if node.op_type == "AveragePool":
        node.attributes.add(ir.AttrInt64("count_include_pad", 1))
    node.replace_input_with(0, pad.inputs[0])
