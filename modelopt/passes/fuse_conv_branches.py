"""Fuse convolutions over the same input that are summed, and identities among them, into one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.affine import is_affine, normalization, per_channel, variable
from modelopt.patterns.convolution import Absorbed, Conv, as_convolution, bias_of, replace_tail, rounded
from modelopt.patterns.rewriter import Rewrite


class FuseConvBranches(RewritePass):
    """Fuse parallel branches over one input that are summed, as RepVGG and MobileOne train them, into one Conv.

    Convolution is linear in its weights: ``Conv(x, W₁, b₁) + Conv(x, W₂, b₂) = Conv(x, W₁ + W₂, b₁ + b₂)``, when
    groups, strides and dilations agree and the smaller kernel is put, in zeros, where its taps meet the same inputs:
    tap ``k`` of ``W₂`` reads at ``k · d - p₂``, so it becomes tap ``k + (p₁ - p₂) / d`` of ``W₁``. The sums of the pads
    must agree with the sizes of the kernels, or the outputs differ in size.

    A branch that is ``x`` itself, or an affine map ``a · x + s`` of it (BatchNormalization, or Mul, Add, Sub, Div by
    constants), is a convolution by a 1×1 kernel, ``a`` on the diagonal of each group, with the bias ``s``; it needs as
    many channels out as in. The result is as large as the larger kernel; where neither kernel holds the other (1×3 and
    3×1) it would cost more than the two, and is refused.
    """

    finite_only: ClassVar[bool] = True  # a small kernel is padded with zeros, and zero times NaN is NaN

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the sum of two branches; longer sums fold from the front."""
        if not (graph.is_standard(node, "Add") or graph.is_standard(node, "Sum")) or len(node.inputs) != 2:
            return match.NOT_HERE
        refusal, (left, right) = match.NOT_HERE, node.inputs
        if left is None or right is None:
            return refusal
        for value, other in ((left, right), (right, left)):
            found = _fused(value, other, node, opset)
            if not isinstance(found, Mismatch):
                return partial(replace_tail, *found, node, names)
            refusal = found if found.near else refusal
        return refusal


@dataclass(frozen=True)
class _Branch:
    """A summand as a convolution.

    Attributes:
        weight: float64, as Conv stores it.
        bias: float64, shape (C_out,).
        group: The number of groups.
        strides: For each spatial axis.
        dilations: For each spatial axis.
        begin: The padding before each spatial axis.
        pads: The padding before and behind each spatial axis, added.
    """

    weight: np.ndarray
    bias: np.ndarray
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    pads: tuple[int, ...]

    def step(self, axis: int) -> int | None:
        """The dilation, None where a single tap has none."""
        return self.dilations[axis] if self.weight.shape[2 + axis] > 1 else None


def _fused(value: ir.Value, other: ir.Value, node: ir.Node, opset: int) -> tuple[Conv, Absorbed] | Mismatch:
    """The convolution that makes `value`, and the weights with which it makes the sum."""
    main = match.producer(value, "Conv")
    x = None if main is None else main.inputs[0]
    if main is None or x is None or value is other:
        return match.NOT_HERE
    producer = other.producer()
    if other is not x and (producer is None or _source(producer) is not x):
        return match.NOT_HERE
    if opset < 7:
        return Mismatch(f"{node.op_type} of opset {opset} broadcasts by attributes")
    for part in (main, *([] if other is x or producer is None else [producer])):
        if part.graph is not node.graph:
            return Mismatch(f"{graph.label(part)} is in an outer scope")
        if graph.sole_consumer(part.outputs[0]) is None:
            return Mismatch(f"{graph.label(part)} is needed as it is: {graph.why_not_sole(part.outputs[0])}")
    conv = as_convolution(main)
    large = conv if isinstance(conv, Mismatch) else _convolution(conv)
    if isinstance(conv, Mismatch):
        return conv
    if isinstance(large, Mismatch):
        return large
    small = _branch(None if other is x else producer, conv, opset)
    sum_ = small if isinstance(small, Mismatch) else _sum(large, small)
    absorbed = sum_ if isinstance(sum_, Mismatch) else rounded(conv, *sum_)
    return absorbed if isinstance(absorbed, Mismatch) else (conv, absorbed)


def _source(node: ir.Node) -> ir.Value | None:
    """The input of the branch that `node` is, when that is one node."""
    if graph.is_standard(node, "Conv") or graph.is_standard(node, "BatchNormalization"):
        return node.inputs[0]
    return variable(node) if is_affine(node) else None


def _convolution(conv: Conv) -> _Branch | Mismatch:
    bias, axes = bias_of(conv), conv.rank - 2
    if isinstance(bias, Mismatch):
        return bias
    if graph.attribute_string(conv.node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return Mismatch("the padding depends on the size of the input")
    pads = graph.attribute_ints(conv.node, "pads") or (0,) * 2 * axes
    strides, dilations = (graph.attribute_ints(conv.node, key) or (1,) * axes for key in ("strides", "dilations"))
    if len(pads) != 2 * axes:
        return Mismatch("its padding does not fit its rank")
    total = tuple(before + after for before, after in zip(pads[:axes], pads[axes:], strict=True))
    weight = conv.weight.numpy().astype(np.float64)
    return _Branch(weight, bias, conv.group, strides, dilations, pads[:axes], total)


def _branch(node: ir.Node | None, conv: Conv, opset: int) -> _Branch | Mismatch:
    """The other summand, which is the input of `conv` where `node` is None."""
    if node is not None and graph.is_standard(node, "Conv"):
        other = as_convolution(node)
        return other if isinstance(other, Mismatch) else _convolution(other)
    if conv.inputs != conv.outputs:
        return Mismatch(f"the convolution makes {conv.outputs} channels of {conv.inputs}")
    affine: tuple[np.ndarray, np.ndarray] | Mismatch = (np.ones(conv.inputs), np.zeros(conv.inputs))
    if node is not None and graph.is_standard(node, "BatchNormalization"):
        affine = normalization(node, opset, conv.inputs)
    elif node is not None:
        affine = per_channel(node, opset, conv.inputs, conv.rank)
    if isinstance(affine, Mismatch):
        return affine
    per_group, axes = conv.inputs // conv.group, conv.rank - 2
    diagonal = np.tile(np.eye(per_group), (conv.group, 1)) * affine[0][:, None]
    zeros, ones = (0,) * axes, (1,) * axes
    return _Branch(diagonal.reshape(*diagonal.shape, *ones), affine[1], conv.group, ones, ones, zeros, zeros)


def _sum(large: _Branch, small: _Branch) -> tuple[np.ndarray, np.ndarray] | Mismatch:
    """Weight and bias of both as one, when the kernel of `large` has room for that of `small`."""
    if large.weight.shape[:2] != small.weight.shape[:2] or large.group != small.group:
        return Mismatch("the branches differ in channels or groups")
    if large.strides != small.strides:
        return Mismatch("the branches differ in strides")
    window = [slice(None), slice(None)]
    for axis in range(len(large.strides)):
        size, taps = large.weight.shape[2 + axis], small.weight.shape[2 + axis]
        steps = {branch.step(axis) for branch in (large, small)} - {None}
        if len(steps) > 1:
            return Mismatch("the branches differ in dilations")
        step = steps.pop() if steps else 1
        first, rest = divmod(large.begin[axis] - small.begin[axis], step or 1)
        if rest or first < 0 or first + taps > size:
            return Mismatch("the kernel of one branch does not lie within that of the other")
        if large.pads[axis] - small.pads[axis] != (step or 1) * (size - taps):
            return Mismatch("the branches differ in padding")
        window.append(slice(first, first + taps))
    weight = large.weight.copy()
    weight[tuple(window)] += small.weight
    return weight, large.bias + small.bias
