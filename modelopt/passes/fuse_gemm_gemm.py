"""Fuse two matrix products by constants in a row into one."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.gemm import as_product, is_product, product_before, rounded, store
from modelopt.patterns.rewriter import Rewrite, why_not_needed_once


class FuseGemmGemm(RewritePass):
    """Fuse Gemm or MatMul behind Gemm or MatMul, without an activation between them, into one.

    ``(x · W₁ + b₁) · W₂ + b₂ = x · (W₁ · W₂) + (b₁ · W₂ + b₂)``. With ``W₁`` of shape (K, M) and ``W₂`` (M, N) it costs
    K · N products in place of M · (K + N): refused where that is not less, as it is for the low-rank pairs that people
    make on purpose. The weights are multiplied in float64; the sum over M is computed once, ahead, so its rounding
    differs from that at run time by what reordering it would.
    """

    finite_only: ClassVar[bool] = True  # opposite infinities meet in one order of the products and not in the other

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the second product; longer chains fold from the front."""
        head = product_before(node.inputs[0]) if is_product(node) else None
        if head is None:
            return match.NOT_HERE
        if reason := why_not_needed_once(head, node):
            return Mismatch(reason)
        first, second = as_product(head, opset), as_product(node, opset)
        if isinstance(first, Mismatch):
            return first
        if isinstance(second, Mismatch):
            return second
        if first.weight.shape[1] != second.weight.shape[0] or first.dtype != second.dtype:
            return Mismatch("the two weights do not fit each other")
        new_size, old_size = first.weight.shape[0] * second.weight.shape[1], first.weight.size + second.weight.size
        if new_size >= old_size:
            return Mismatch(f"one weight would have {new_size} elements, the two have {old_size}")
        for product in (first, second):
            if len(product.node.inputs[1].uses()) > 1:  # type: ignore[union-attr]
                return Mismatch("other nodes use a weight too, and one more would make the file larger")
        wide = np.zeros(second.weight.shape[1]) if second.bias is None else second.bias
        if first.bias is not None:
            wide = first.bias @ second.weight + wide
        has_bias = first.bias is not None or second.bias is not None
        weight, bias = rounded(first.weight @ second.weight, first.dtype), rounded(wide, first.dtype)
        if isinstance(weight, Mismatch):
            return weight
        if isinstance(bias, Mismatch):
            return bias
        return partial(store, names, node, head, second, weight, bias if has_bias else None)
