"""Fold an inference-mode BatchNormalization into the convolution before it."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.affine import normalization
from modelopt.patterns.convolution import absorb_behind, convolution_before, replace_tail
from modelopt.patterns.rewriter import Rewrite


class FuseConvBn(RewritePass):
    """Fold BatchNormalization into the weights of the Conv or ConvTranspose before it.

    BatchNormalization-15 in inference mode is ``y = (x - mean) / sqrt(var + epsilon) · scale + bias`` per channel
    (axis 1), an affine map ``a · x + s`` with ``a = scale / sqrt(var + epsilon)`` and ``s = bias - a · mean``. A
    convolution absorbs it: ``W ← a · W`` along the output channels, ``b ← a · b + s``. Computed in float64 and cast
    back.

    The normalization must follow the convolution directly: behind a Relu it is another function. Channels without
    variance are folded too, unless their mean is so large that rounding would show: `patterns.affine.normalization`.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the BatchNormalization."""
        if not graph.is_standard(node, "BatchNormalization"):
            return match.NOT_HERE
        conv = convolution_before(node.inputs[0], node)
        if isinstance(conv, Mismatch):
            return conv
        affine = normalization(node, opset, conv.outputs)
        absorbed = affine if isinstance(affine, Mismatch) else absorb_behind(conv, *affine)
        return absorbed if isinstance(absorbed, Mismatch) else partial(replace_tail, conv, absorbed, node, names)
