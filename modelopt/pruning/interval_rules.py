"""Bounds of what convolutions, products, normalizations and pools make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS
from modelopt.patterns.convolution import Conv, as_convolution
from modelopt.pruning.interval_functions import outward, product
from modelopt.pruning.interval_moves import MOVES
from modelopt.pruning.interval_sums import Range, weighted_sums
from modelopt.pruning.value_intervals import (
    ELEMENTWISE,
    FEW_ULPS,
    Bounds,
    Known,
    Rule,
    along,
    epsilon_of,
    operand,
    with_zero,
)

_UNBOUNDED: Range = (np.array([-np.inf]), np.array([np.inf]))


def pads(node: ir.Node) -> bool:
    """Whether some positions of a convolution's output do not sum over all its weights.

    A Conv with padding sums over zeros at the borders. A ConvTranspose does so in any case, except where each output
    has one input position: a kernel of 1, with a stride of 1 and nothing added.
    """
    tensor = graph.constant_tensor(node.inputs[1])
    is_point = tensor is not None and all(size == 1 for size in tensor.shape.numpy()[2:])
    explicit = any(graph.attribute_ints(node, "pads") or ())
    if node.op_type == "Conv":
        same = graph.attribute_string(node, "auto_pad", "NOTSET") in {"SAME_UPPER", "SAME_LOWER"}
        return explicit or (same and not is_point)
    moves = any(stride != 1 for stride in graph.attribute_ints(node, "strides") or ())
    added = any(graph.attribute_ints(node, "output_padding") or ()) or "output_shape" in node.attributes
    return explicit or moves or added or not is_point


def rows_of(conv: Conv) -> np.ndarray:
    """The weights of each output channel: shape (C_out, C_in / group, k)."""
    weight = conv.weight.numpy()
    if conv.node.op_type == "Conv":
        return weight.reshape(conv.outputs, conv.inputs // conv.group, -1)
    blocks = weight.reshape(conv.group, conv.inputs // conv.group, conv.outputs // conv.group, -1)
    return np.swapaxes(blocks, 1, 2).reshape(conv.outputs, conv.inputs // conv.group, -1)


def convolution(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """A channel is a sum over the channels of its group and the kernel."""
    conv = as_convolution(node)
    if isinstance(conv, Mismatch):
        return ()
    given = operand(node.inputs[0], known, 1)
    if pads(node):
        given = with_zero(given)
    return (along(1, _sums(rows_of(conv), given, conv.inputs, conv.group, _bias(node, known, conv.outputs), node)),)


def _bias(node: ir.Node, known: Known, size: int) -> Range:
    bias = graph.input_at(node, 2)
    if bias is None:
        return np.zeros(size), np.zeros(size)
    return operand(bias, known, (graph.rank(bias) or 0) - 1)


def _sums(rows: np.ndarray, given: Range, inputs: int, group: int, bias: Range, node: ir.Node) -> Range:
    if rows.size == 0 or not all(len(each) in {1, size} for each, size in ((given[0], inputs), (bias[0], len(rows)))):
        return _UNBOUNDED
    low, high = (np.broadcast_to(each, inputs).reshape(group, -1) for each in given)
    return weighted_sums(rows, low, high, bias, epsilon_of(node.outputs[0]))


def gemm(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """Y = α · A' · B' + β · C with a constant B."""
    tensor = graph.constant_tensor(node.inputs[1])
    if tensor is None or tensor.dtype not in IEEE_FLOATS or len(tensor.shape) != 2:
        return ()
    weight = tensor.numpy()
    if not graph.attribute_int(node, "transB", 0):
        weight = weight.T
    alpha, beta = graph.attribute_float(node, "alpha", 1.0), graph.attribute_float(node, "beta", 1.0)
    bias, scale = _bias(node, known, len(weight)), np.array([beta])
    if beta != 1:
        bias = product(bias, (scale, scale))
    if alpha != 1:
        weight = weight * weight.dtype.type(alpha)
    given = operand(node.inputs[0], known, 0 if graph.attribute_int(node, "transA", 0) else 1)
    return (along(1, _sums(weight[:, :, None], given, weight.shape[1], 1, bias, node)),)


def matmul(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """A product with a constant matrix on the right; of two computed factors, whether zeros in one leave zeros."""
    left, right = node.inputs[0], node.inputs[1]
    ranks = graph.rank(left), graph.rank(right)
    tensor = graph.constant_tensor(right)
    if ranks[0] is None or ranks[1] is None or min(ranks[0], ranks[1]) < 2:
        return ()
    if tensor is not None:
        if tensor.dtype not in IEEE_FLOATS or ranks[1] != 2:
            return ()
        weight = tensor.numpy().T
        given = operand(left, known, ranks[0] - 1)
        bias = np.zeros(len(weight)), np.zeros(len(weight))
        return (along(ranks[0] - 1, _sums(weight[:, :, None], given, weight.shape[1], 1, bias, node)),)
    rank = max(ranks[0], ranks[1])
    for value, own, summed in ((left, ranks[0], ranks[0] - 1), (right, ranks[1], ranks[1] - 2)):
        given_bounds = None if value is None else known.get(value)
        if given_bounds is not None and given_bounds.axis not in {summed, None}:
            is_zero = (given_bounds.low == 0) & (given_bounds.high == 0)
            if is_zero.any():
                return (_zeros(is_zero, (given_bounds.axis or 0) + rank - own),)
    return ()


def _zeros(is_zero: np.ndarray, axis: int) -> Bounds | None:
    return along(axis, (np.where(is_zero, 0, -np.inf), np.where(is_zero, 0, np.inf)))


def normalized(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """BatchNormalization: an affine map of each channel. InstanceNormalization: its bias where the scale is zero."""
    parameters = [graph.constant(value) for value in node.inputs[1:]]
    if any(each is None or each.ndim != 1 for each in parameters) or len({len(each) for each in parameters}) != 1:  # type: ignore[arg-type]
        return ()
    if len(node.outputs) > 1 or graph.attribute_int(node, "training_mode", 0):
        return ()
    scale, bias, *moments = (np.asarray(each, np.float64) for each in parameters)
    if node.op_type == "InstanceNormalization" or len(moments) != 2:
        return (along(1, (np.where(scale == 0, bias, -np.inf), np.where(scale == 0, bias, np.inf))),)
    factor = scale / np.sqrt(moments[1] + graph.attribute_float(node, "epsilon", 1e-5))
    given = operand(node.inputs[0], known, 1)
    if len(given[0]) not in {1, len(scale)}:
        return ()
    given = (given[0] - moments[0], given[1] - moments[0])
    found = product(outward(given, FEW_ULPS * epsilon_of(node.outputs[0])), (factor, factor))
    found = outward((found[0] + bias, found[1] + bias), FEW_ULPS * epsilon_of(node.outputs[0]))
    return (along(1, found),)


def softmax(node: ir.Node, _: Known) -> Sequence[Bounds | None]:
    """Shares of 1."""
    slack = FEW_ULPS * epsilon_of(node.outputs[0])
    return (along(None, (np.zeros(1), np.full(1, 1 + slack))),)


def pooled(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """The largest or the mean of some positions of a channel; padding may count as zeros in a mean."""
    given = None if node.inputs[0] is None else known.get(node.inputs[0])
    if given is None:
        return ()
    if given.axis not in {1, None}:
        given = Bounds(None, *given.hull)
    found = given.range
    if any(graph.attribute_int(node, name, 0) for name in ("count_include_pad", "ceil_mode")):
        found = with_zero(found)
    if "Average" in node.op_type or "Mean" in node.op_type:
        found = outward(found, 1000 * epsilon_of(node.outputs[0]))
    return (along(given.axis, found),)


def reduced(node: ir.Node, known: Known) -> Sequence[Bounds | None]:
    """ReduceMean, ReduceMax and ReduceMin over axes other than that of the bounds, or over all of it."""
    given, rank = known.get(node.inputs[0]) if node.inputs[0] else None, graph.rank(node.inputs[0])
    if given is None or rank is None:
        return ()
    axes = graph.ints_of(node, 1, "axes")
    found = given.range
    if node.op_type == "ReduceMean":
        found = outward(found, 1000 * epsilon_of(node.outputs[0]))
    together = Bounds(None, *found).hull
    if axes is None or given.axis is None or given.axis in {axis % rank for axis in axes}:
        return (along(None, together),)
    kept = graph.attribute_int(node, "keepdims", 1)
    return (along(given.axis if kept else given.axis - sum(axis % rank < given.axis for axis in axes), found),)


RULES: Mapping[tuple[str, str], Rule] = {
    **ELEMENTWISE,
    ("", "Conv"): convolution,
    ("", "ConvTranspose"): convolution,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
    **{("", op_type): normalized for op_type in ("BatchNormalization", "InstanceNormalization")},
    **{("", op_type): softmax for op_type in ("Softmax", "Hardmax")},
    **{("", op_type): pooled for op_type in ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")},
    **{("", op_type): reduced for op_type in ("ReduceMean", "ReduceMax", "ReduceMin")},
    **MOVES,
}
"""By domain ("" for ONNX's own) and operator."""
