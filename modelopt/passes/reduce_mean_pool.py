"""Rewrite the mean over all spatial axes behind a convolution as GlobalAveragePool."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns import runtime_kernels as protected
from modelopt.patterns.rewriter import Rewrite

_BLOCK = 16  # channels in onnxruntime's NCHWc layout with AVX-512; without it 8
_KEEP_BLOCKS = frozenset({"Add", "BatchNormalization", "Clip", "HardSigmoid", "Mul", "Relu", "Sigmoid", "Tanh"})
_FARTHEST = 8  # nodes between the convolution and the mean are searched


class ReduceMeanPool(RewritePass):
    """Rewrite the mean over all spatial axes behind a convolution as GlobalAveragePool.

    ReduceMean of a tensor (batch, channels, spatial …) over exactly the axes behind the second is GlobalAveragePool-1,
    where the axes stay with size 1. Where they go it would take a Reshape more: refused. Exact up to the order of the
    sum.

    onnxruntime keeps what a convolution makes in blocks of 16 channels, up to the first operator that does not know
    them: GlobalAveragePool does, ReduceMean does not, so a convolution and its mean take 5 to 18 % less time. Anywhere
    else ReduceMean is the faster one, by up to 2.7 times, and stays. So do the means inside of normalizations that
    onnxruntime fuses; of the others the passes that fuse them see each first.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the ReduceMean."""
        if not graph.is_standard(node, "ReduceMean") or node.inputs[0] is None:
            return match.NOT_HERE
        x = node.inputs[0]
        rank = graph.rank(x)
        if rank is None:
            return Mismatch("the rank of its input is not known")
        axes = _axes(node, opset)
        if axes is None:
            return Mismatch("its axes are not constant, or it is over all")
        if rank < 3 or {axis + rank if axis < 0 else axis for axis in axes} != set(range(2, rank)):
            return Mismatch("it is not over all axes behind the second, and these alone")
        if graph.attribute_int(node, "keepdims", 1) != 1:
            return Mismatch("it takes its axes away: GlobalAveragePool would need a Reshape behind it")
        if reason := protected.why_not_alter(node, opset):
            return Mismatch(reason)
        if x.dtype != ir.DataType.FLOAT:
            return Mismatch("onnxruntime's GlobalAveragePool is for float32")
        if x.shape is not None and 0 in list(x.shape):
            return Mismatch("a mean of nothing is not a number, and there is no pool of nothing")
        channels = graph.known_size(x, 1)
        if not isinstance(channels, int) or channels % _BLOCK or not _is_blocked(x):
            return Mismatch("it is not of a convolution whose channels come in blocks: ReduceMean is as fast or faster")
        return partial(graph.become, node, "GlobalAveragePool", [x])


def _is_blocked(x: ir.Value | None) -> bool:
    """Whether a convolution makes `x`, with nothing behind it but operators that keep its blocks."""
    for _ in range(_FARTHEST):
        node = None if x is None else x.producer()
        if node is None or node.domain not in graph.STANDARD_DOMAINS:
            return False
        if node.op_type == "Conv":
            return True
        if node.op_type not in _KEEP_BLOCKS:
            return False
        x = next((value for value in node.inputs if value is not None and value.producer() is not None), None)
    return False


def _axes(node: ir.Node, opset: int) -> tuple[int, ...] | None:
    """The axes: an attribute below opset 18, then an input."""
    return graph.ints_by_opset(node, opset, "axes", 1, since=18) or None
