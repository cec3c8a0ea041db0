"""Fold BatchNormalization and per-column Mul, Add, Sub, Div into the matrix product before them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.affine import Affine, constant_of, is_affine, normalization, per_channel, variable
from modelopt.patterns.gemm import Product, as_product, product_before, rounded, store, why_not_store
from modelopt.patterns.rewriter import Rewrite, why_not_needed_once


class FuseGemmBn(RewritePass):
    """Fold BatchNormalization, Mul, Add, Sub or Div by constants into the Gemm or MatMul before them.

    Each is a map ``a · y + s`` with one number, or one per column: ``a · (x · W + b) + s = x · (a · W) + (a · b + s)``,
    with ``a`` along the columns of ``W``. BatchNormalization has its channels on axis 1, which are the columns where
    the product is a matrix: so it is of Gemm, and of MatMul where the rank is known to be 2. Such a MatMul becomes a
    Gemm where a shift is left; a MatMul of another rank, or of a rank that is not known, absorbs a scale alone.

    Only constants of one number or of the shape of the last axis are per column; others are refused.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the BatchNormalization, Mul, Add, Sub or Div behind the product."""
        is_norm = graph.is_standard(node, "BatchNormalization")
        if not is_norm and not is_affine(node):
            return match.NOT_HERE
        head = product_before(node.inputs[0] if is_norm else variable(node))
        x = None if head is None else head.inputs[0]
        if head is None or x is None:
            return match.NOT_HERE
        if reason := why_not_needed_once(head, node):
            return Mismatch(reason)
        product = as_product(head, opset)
        if isinstance(product, Mismatch):
            return product
        is_matrix = head.op_type == "Gemm" or graph.rank(x) == 2
        affine = _affine(node, opset, product, is_matrix=is_matrix)
        if isinstance(affine, Mismatch):
            return affine
        scale, shift = affine
        if np.any(shift != 0) and (opset < 7 or not is_matrix):
            return Mismatch("a product that is not known to be a matrix takes no shift")
        if head.op_type == "MatMul" and np.all(scale == 1):
            return Mismatch("fuse-matmul-add makes a Gemm of it")
        return _stored(names, node, product, scale, shift)


def _affine(node: ir.Node, opset: int, product: Product, *, is_matrix: bool) -> Affine | Mismatch:
    columns = product.weight.shape[1]
    if graph.is_standard(node, "BatchNormalization"):
        return (
            normalization(node, opset, columns)
            if is_matrix
            else Mismatch("the channels of the normalization are not known to be the columns")
        )
    tensor = constant_of(node, opset)
    if isinstance(tensor, Mismatch):
        return tensor
    rank = 2 if is_matrix else max(1, graph.rank(product.node.inputs[0]) or 1)
    return per_channel(node, opset, columns, rank, axis=rank - 1)


def _stored(
    names: graph.NameSource, node: ir.Node, product: Product, scale: np.ndarray, shift: np.ndarray
) -> Rewrite | Mismatch:
    wide_bias = shift if product.bias is None else scale * product.bias + shift
    weight, bias = None, rounded(wide_bias, product.dtype)
    if np.any(scale != 1) or graph.attribute_float(product.node, "alpha", 1.0) != 1:
        if reason := why_not_store(product):
            return Mismatch(reason)
        weight = rounded(product.weight * scale, product.dtype)
    if isinstance(weight, Mismatch):
        return weight
    if isinstance(bias, Mismatch):
        return bias
    needed = product.bias is not None or bool(np.any(wide_bias != 0))
    return partial(store, names, node, product.node, product, weight, bias if needed else None)
