"""Fuse a matrix product and the addition of a bias into Gemm."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS
from modelopt.passes.base import RewritePass
from modelopt.patterns import runtime_kernels as protected
from modelopt.patterns.rewriter import Rewrite


class FuseMatmulAdd(RewritePass):
    """Fuse MatMul by a constant matrix and Add of a constant bias into Gemm.

    ``x · W + b = Gemm(x, W, b)`` for ``x`` of shape (M, K), ``W`` (K, N) and ``b`` broadcast to (M, N). Gemm-7
    multiplies matrices only, so the rank of ``x`` must be known to be 2, and broadcasts ``b`` one way, so its shape
    must be (N,), (1, N) or that of one number. Gemm below opset 7 broadcasts by an attribute, below opset 9 it knows
    floats only, and onnxruntime has no integer Gemm at all: these are refused.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the Add."""
        operands = match.split_constant(node) if graph.is_standard(node, "Add") else None
        product = None if operands is None else match.producer(operands[0], "MatMul")
        if operands is None or product is None:
            return match.NOT_HERE
        if product.graph is not node.graph:
            return Mismatch("the product is in an outer scope")
        if graph.sole_consumer(product.outputs[0]) is None:
            return Mismatch(f"the product is needed as it is: {graph.why_not_sole(product.outputs[0])}")
        if reason := protected.why_not_alter(node, opset) or _why_not_gemm(product, operands[1], opset):
            return Mismatch(reason)
        return partial(graph.become, node, "Gemm", [*product.inputs, operands[1]])


def _why_not_gemm(product: ir.Node, bias: ir.Value, opset: int) -> str | None:
    x, weight = product.inputs
    matrix, offset = graph.constant_tensor(weight), graph.constant_tensor(bias)
    if matrix is None or offset is None:
        return "the product is not by a constant"
    if opset < 7:
        return f"Gemm of opset {opset} broadcasts by an attribute"
    if matrix.dtype not in IEEE_FLOATS:
        return f"onnxruntime has no Gemm for {matrix.dtype.name.lower()}"
    if graph.rank(x) != 2:
        return f"Gemm needs a matrix, and the rank of the input is {graph.rank(x) or 'not known'}"
    if len(matrix.shape) != 2:
        return f"Gemm needs a matrix, and the rank of the weight is {len(matrix.shape)}"
    columns, shape = matrix.shape.numpy()[1], tuple(offset.shape.numpy())
    if shape not in {(columns,), (1, columns), (), (1,), (1, 1)}:
        return f"the bias of shape {shape} is not one number per column"
    return None
