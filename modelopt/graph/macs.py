"""Multiply-accumulates of a node, from the shapes of its values.

Counted are operators that multiply matrices; element-wise work, biases and normalizations are not. A multiplication
with padding counts. Formulas: https://onnx.ai/onnx/operators/ and onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import onnx_ir as ir

from modelopt import graph

Dims = tuple[int | None, ...] | None
"""One entry per axis, None for an unknown size; None as a whole without a rank."""

_LARGEST = 2**63 - 1  # the largest integer that JSON readers take


def counts(node: ir.Node) -> bool:
    """Whether `node` multiplies matrices and so has MACs."""
    return graph.operator_of(node) in _COUNTERS


def macs(node: ir.Node) -> int | None:
    """The MACs of one run of `node`; None when a shape that it takes is unknown, or when `counts` says no."""
    counter = _COUNTERS.get(graph.operator_of(node))
    number = None if counter is None else counter(node)
    return None if number is None or number > _LARGEST else number


def dims(value: ir.Value | None) -> Dims:
    """The sizes of a value's axes as far as they are known; of a stored tensor its own."""
    if value is not None and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    return graph.known_dims(value)


def is_settled(value: ir.Value) -> bool:
    """Whether the size of each axis is known; some exporters write -1 where it is not."""
    shape = dims(value)
    return shape is not None and None not in shape


def _input(node: ir.Node, index: int) -> Dims:
    return dims(graph.input_at(node, index))


def _times(factors: Iterable[int | None]) -> int | None:
    known = tuple(factors)
    return None if None in known else math.prod(factor for factor in known if factor is not None)


def _size(shape: Dims) -> int | None:
    return None if shape is None else _times(shape)


def _axis(shape: Dims, axis: int) -> int | None:
    return None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]


def _conv(weight: int) -> Callable[[ir.Node], int | None]:
    """W is (C_out, C_in/group, k…): each output element takes C_in/group · k products."""

    def count(node: ir.Node) -> int | None:
        kernel = _input(node, weight)
        return None if kernel is None else _times((_size(dims(node.outputs[0])), *kernel[1:]))

    return count


def _conv_transpose(node: ir.Node) -> int | None:
    """W is (C_in, C_out/group, k…): each input element takes C_out/group · k products."""
    kernel = _input(node, 1)
    return None if kernel is None else _times((_size(_input(node, 0)), *kernel[1:]))


def _gemm(second: int) -> Callable[[ir.Node], int | None]:
    def count(node: ir.Node) -> int | None:
        left, right = _input(node, 0), _input(node, second)
        inner = _axis(right, 1 if graph.attribute_int(node, "transB", 0) else 0)
        outer = _axis(right, 0 if graph.attribute_int(node, "transB", 0) else 1)
        rows = _axis(dims(node.outputs[0]), 0)
        if rows is None:
            rows = _axis(left, 1 if graph.attribute_int(node, "transA", 0) else 0)
        return _times((rows, inner, outer))

    return count


def _matmul(second: int) -> Callable[[ir.Node], int | None]:
    """As numpy.matmul: each output element takes K products, K being the axis that both sides share."""

    def count(node: ir.Node) -> int | None:
        left, right = _input(node, 0), _input(node, second)
        inner = _axis(left, -2 if graph.attribute_int(node, "transA", 0) else -1)
        if inner is None and right is not None:
            inner = _axis(right, -1 if len(right) == 1 or graph.attribute_int(node, "transB", 0) else -2)
        return _times((_size(dims(node.outputs[0])), inner))

    return count


def _matmul_nbits(node: ir.Node) -> int | None:
    columns, inner = graph.attribute_int(node, "N", 0), graph.attribute_int(node, "K", 0)
    left = _input(node, 0)
    return None if left is None else _times((*left[:-1], columns, inner))


def _recurrent(node: ir.Node) -> int | None:
    """X is (steps, batch, I); W (directions, gates · H, I) and R (directions, gates · H, H) are used at each step."""
    x, w, r = _input(node, 0), _size(_input(node, 1)), _size(_input(node, 2))
    return None if x is None or w is None or r is None else _times((*x[:2], w + r))


def _einsum(node: ir.Node) -> int | None:
    """Two operands: the product of the sizes of all distinct subscripts."""
    equation = graph.attribute_string(node, "equation", "").replace(" ", "")
    terms = re.split(r",|->", equation)[: len(node.inputs)]
    if len(node.inputs) != 2 or len(terms) != 2 or "." in equation:
        return None
    sizes: dict[str, int | None] = {}
    for term, shape in zip(terms, (_input(node, 0), _input(node, 1)), strict=True):
        if shape is None or len(term) != len(shape):
            return None
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = size if sizes.get(letter) in {None, 1} else sizes[letter]
    return _times(sizes.values())


def _attention(node: ir.Node) -> int | None:
    """Attention-23: Q·Kᵀ and the product with V. Inputs are (batch, heads, length, width) or (batch, length, all)."""
    query, key, value = (_input(node, index) for index in range(3))
    past = graph.input_at(node, 4) is not None
    if query is None or key is None or value is None or past:
        return None
    if len(query) == len(key) == len(value) == 4:
        width = _sum(query[3], value[3])
        return _times((query[0], query[1], query[2], key[2], width))
    heads, kv_heads = (graph.attribute_int(node, name, 0) for name in ("q_num_heads", "kv_num_heads"))
    if not len(query) == len(key) == len(value) == 3 or heads < 1 or kv_heads < 1 or value[2] is None:
        return None
    return _times((query[0], query[1], key[1], _sum(query[2], heads * (value[2] // kv_heads))))


def _contrib_attention(node: ir.Node) -> int | None:
    """com.microsoft Attention: one projection to Q, K and V, then Q·Kᵀ and the product with V, without a past."""
    x, weight = _input(node, 0), _input(node, 1)
    past = graph.input_at(node, 4) is not None
    if x is None or weight is None or len(x) != 3 or len(weight) != 2 or past or "qkv_hidden_sizes" in node.attributes:
        return None
    projection, joined = _times((*x, weight[1])), _times((x[0], x[1], x[1], weight[1]))
    return None if projection is None or joined is None else projection + 2 * joined // 3


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


_COUNTERS: dict[tuple[str, str], Callable[[ir.Node], int | None]] = {
    ("", "Conv"): _conv(1),
    ("", "ConvInteger"): _conv(1),
    ("", "QLinearConv"): _conv(3),
    ("", "DeformConv"): _conv(1),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm(1),
    ("", "MatMul"): _matmul(1),
    ("", "MatMulInteger"): _matmul(1),
    ("", "QLinearMatMul"): _matmul(3),
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    (graph.CONTRIB_DOMAIN, "FusedConv"): _conv(1),
    (graph.CONTRIB_DOMAIN, "FusedGemm"): _gemm(1),
    (graph.CONTRIB_DOMAIN, "QGemm"): _gemm(3),
    (graph.CONTRIB_DOMAIN, "FusedMatMul"): _matmul(1),
    (graph.CONTRIB_DOMAIN, "DynamicQuantizeMatMul"): _matmul(1),
    (graph.CONTRIB_DOMAIN, "MatMulIntegerToFloat"): _matmul(1),
    (graph.CONTRIB_DOMAIN, "MatMulNBits"): _matmul_nbits,
    (graph.CONTRIB_DOMAIN, "Attention"): _contrib_attention,
}
