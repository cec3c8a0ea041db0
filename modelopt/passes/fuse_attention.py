"""Fuse multi-head attention into onnxruntime's Attention or MultiHeadAttention."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.passes.base import Pass
from modelopt.patterns import attention, qkv_projection
from modelopt.patterns.attention_masks import Masks
from modelopt.patterns.rewriter import Rewrite, collapse, rewrite_nodes, why_not_private


class FuseAttention(Pass):
    """Fuse multi-head attention into Attention or MultiHeadAttention (onnxruntime only).

    ``softmax(scale · Q · Kᵀ + mask) · V`` for each head (Vaswani et al. 2017), with the Reshapes and Transposes that
    split and join the heads, in onnxruntime's ContribOperators.md:

    - where Q, K, V are ``x · W + b`` of one ``x``: Attention(x, [Wq Wk Wv], [bq bk bv]), one product for all three.
      One that the exporter packed (a Split or Slices in three, or Reshape to five axes and three slices) keeps its
      weight as it is;
    - else: MultiHeadAttention(Q, K, V).

    The mask is any that is added: it stays a tensor, so -10000 and -3.4e38 mean what they meant. One that replaces
    scores by -inf, or by a number below -1e30, adds that number instead: a score is lost in it either way. The
    operators do not repeat a mask over the queries, so one of shape (batch, 1, 1, length) is expanded, once for all
    layers of the first kind. A mask whose batch size does not fit is found by onnxruntime when it runs.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    finite_only: ClassVar[bool] = True  # masks are added to scores; where the model selects by them, NaN stays out
    contrib: ClassVar[bool] = True

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fuse every attention whose inner values nothing else uses."""
        return rewrite_nodes(model, partial(_rule, Masks(graph.NameSource(model))))


def _rule(masks: Masks, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    found = attention.find(node, opset)
    if isinstance(found, Mismatch):
        return found
    parts = (found.query, found.key, found.value)
    projection = qkv_projection.find(parts, opset)
    packed = any(one.part is not None for one in parts)
    if projection is None and packed:
        return Mismatch("its queries, keys and values are not thirds of one product by a constant")
    if projection is not None and not packed and why_not_private(node, (*found.inner, *projection.nodes)):
        projection = None  # the products are needed as they are
    inner = found.inner if projection is None else (*found.inner, *projection.nodes)
    if reason := _why_not(found, inner, opset):
        return Mismatch(reason)
    return partial(_rewrite, masks, found, projection)


def _why_not(found: attention.Attention, inner: tuple[ir.Node, ...], opset: int) -> str | None:
    if reason := why_not_private(found.last, inner):
        return reason
    if opset < 11 or found.query.source.dtype not in FLOAT16_FLOAT32:
        return "onnxruntime has the operator for float32 and float16 from opset 11 on"
    if any(graph.rank(one.source) != 3 for one in (found.query, found.key, found.value)):
        return "its queries, keys and values are not known to have three axes"
    if found.mask is not None and (found.mask.shape is None or len(found.mask.shape) != 4):
        return "its mask is not known to have four axes"
    if found.mask is None or found.mask.shape is None or found.key.source.shape is None:
        return None
    batch, heads, _, length = found.mask.shape
    if heads not in {1, found.query.heads}:
        return "its mask is not one for all heads, nor one for each"
    if length == 1 or _differ(length, found.key.source.shape[1]):
        return "its mask does not have a number for each key"
    if batch != 1 and _differ(batch, found.key.source.shape[0]):
        return "its mask has another batch size"
    return None


def _differ(left: int | ir.SymbolicDim, right: int | ir.SymbolicDim) -> bool:
    return isinstance(left, int) and isinstance(right, int) and left != right


def _rewrite(masks: Masks, found: attention.Attention, projection: qkv_projection.Projection | None) -> None:
    attributes = [ir.AttrInt64("num_heads", found.query.heads), ir.AttrFloat32("scale", found.scale)]
    mask, inputs = found.mask, list[ir.Value | None]()
    if mask is not None and found.fill is not None:
        mask = masks.added(found.last, mask, found.fill, found.query.source)
    if projection is None:
        op_type, inputs = "MultiHeadAttention", [one.source for one in (found.query, found.key, found.value)]
        mask = mask and masks.for_queries(found.last, mask, found.query.source)
    else:
        weight, bias = qkv_projection.joined(masks.names, found.last, projection)
        op_type, inputs = "Attention", [projection.x, weight, bias]
        mask = mask and masks.for_itself(found.last, mask)
    if mask is not None:
        inputs += [None, None, mask]
    collapse(found.last, op_type, inputs, attributes, domain=graph.CONTRIB_DOMAIN)
