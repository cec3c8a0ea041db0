"""Fold an inference-mode BatchNormalization into the convolution before it."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes._conv import absorb_behind, convolution_before, replace_tail
from modelopt.passes._rewrite import Rewrite, rewrite_nodes
from modelopt.passes.base import Changes, Context, Effect, Pass


class FuseConvBn(Pass):
    """Fold BatchNormalization into the weights of the Conv or ConvTranspose before it.

    BatchNormalization-15 in inference mode is ``y = (x - mean) / sqrt(var + epsilon) · scale + bias`` per channel
    (axis 1), an affine map ``a · x + s`` with ``a = scale / sqrt(var + epsilon)`` and ``s = bias - a · mean``. A
    convolution absorbs it: ``W ← a · W`` along the output channels, ``b ← a · b + s``. Computed in float64 and cast
    back.

    The normalization must follow the convolution directly: behind a Relu it is another function. A channel without
    variance is refused: its output is the difference of two nearly equal numbers, enlarged by ``1 / sqrt(epsilon)``.
    """

    name: ClassVar[str] = "fuse-conv-bn"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fold every normalization that directly follows a convolution of its own."""
        return rewrite_nodes(model, partial(_rule, graph.NameSource(model)))


def _rule(names: graph.NameSource, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    if not graph.is_standard(node, "BatchNormalization"):
        return match.NOT_HERE
    conv = convolution_before(node.inputs[0], node)
    if isinstance(conv, Mismatch):
        return conv
    affine = _affine(node, opset, conv.outputs)
    absorbed = affine if isinstance(affine, Mismatch) else absorb_behind(conv, *affine)
    return absorbed if isinstance(absorbed, Mismatch) else partial(replace_tail, conv, absorbed, node, names)


def _affine(node: ir.Node, opset: int, channels: int) -> tuple[np.ndarray, np.ndarray] | Mismatch:
    """(a, s) of the normalization as ``a · x + s``, float64, shape (channels,)."""
    if reason := _why_not_inference(node, opset):
        return Mismatch(reason)
    arrays = [graph.constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return Mismatch("its parameters are not constant")
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    if any(array.shape != (channels,) for array in (scale, bias, mean, variance)):
        return Mismatch(f"its parameters are not one number for each of {channels} channels")
    if not np.all(variance > 0):
        return Mismatch(f"{np.count_nonzero(~(variance > 0))} channels have no variance")
    factor = scale / np.sqrt(variance + graph.attribute_float(node, "epsilon", 1e-5))
    return factor, bias - factor * mean


def _why_not_inference(node: ir.Node, opset: int) -> str | None:
    if opset >= 14:
        return "it is in training mode" if graph.attribute_int(node, "training_mode", 0) else None
    if any(output.name or output.uses() for output in node.outputs[1:]):
        return "its training outputs are present: it is in training mode"
    if opset < 7 and not graph.attribute_int(node, "is_test", 0):
        return "it is in training mode: is_test is 0"
    if opset < 9 and not graph.attribute_int(node, "spatial", 1):
        return "it normalizes each position apart: spatial is 0"
    return None
