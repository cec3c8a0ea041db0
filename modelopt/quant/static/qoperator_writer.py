"""Conv and MatMul between DQ and Q become QLinearConv and QLinearMatMul, for runtimes that do not fuse Q/DQ.

    DQ(x), DQ(w), DQ(b) → Conv [→ Relu or Clip] → Q    becomes    QLinearConv(x, w, b)

A runtime that fuses the same nodes computes the same integers. A Relu or Clip is removed where the saturation of Q does
the same. Gemm and other operators keep Q/DQ: only onnxruntime has integer operators for them, ONNX has none.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Changes, Skip
from modelopt.graph import match

_FORMS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul"}
_KERNELS = frozenset({*_FORMS, "Gemm"})


def convert(model: ir.Model) -> Changes:
    """Replace the nodes that ONNX has an integer operator for, in all scopes; the model's outputs do not change."""
    converted = 0
    skipped = []
    for node in list(graph.all_nodes(model)):
        if node.op_type not in _KERNELS or any(_dequantizer(value) is None for value in node.inputs[:2]):
            continue
        quantize, operands = _quantizer_behind(node), _operands(node)
        if node.op_type == "Gemm":
            skipped.append(Skip(graph.label(node), "it keeps Q/DQ: the integer Gemm is onnxruntime's own operator"))
        elif quantize is None:
            skipped.append(Skip(graph.label(node), "it keeps Q/DQ: its result is wanted in float"))
        elif _is_wide(quantize):
            skipped.append(Skip(graph.label(node), f"it keeps Q/DQ: {_FORMS[node.op_type]} makes 8 bits, not 16"))
        elif operands is None:
            skipped.append(Skip(graph.label(node), f"it keeps Q/DQ: {_FORMS[node.op_type]} cannot hold its constants"))
        else:
            _become_integer(node, quantize, operands)
            converted += 1
    return Changes(converted, tuple(skipped))


def _is_wide(quantize: ir.Node) -> bool:
    zero_point = graph.constant(graph.input_at(quantize, 2))
    return zero_point is not None and zero_point.dtype.itemsize > 1


def _operands(node: ir.Node) -> list[ir.Node] | None:
    """The DequantizeLinear of each input; None where the integer operator cannot hold one (a bias in float)."""
    found = [_dequantizer(value) for value in node.inputs if value is not None]
    operands = [dequantizer for dequantizer in found if dequantizer is not None]
    if len(operands) != len(node.inputs) or len(operands) < 2:
        return None
    activation, weight = graph.constant(operands[0].inputs[1]), graph.constant(operands[1].inputs[1])
    zero_point = graph.constant(operands[0].inputs[2])
    if activation is None or weight is None or activation.size != 1:
        return None
    if zero_point is None or zero_point.dtype.itemsize != 1:
        return None
    if len(operands) == 3 and not _is_bias(operands[2], activation, weight):
        return None
    return operands


def _is_bias(dequantizer: ir.Node, activation: np.ndarray, weight: np.ndarray) -> bool:
    """Whether the scale of an int32 bias is the product of the other two, as the integer operator assumes."""
    scale = graph.constant(dequantizer.inputs[1])
    product = activation.astype(np.float64) * weight
    return scale is not None and np.allclose(np.broadcast_to(scale, product.shape), product, rtol=1e-6, atol=0)


def _become_integer(node: ir.Node, quantize: ir.Node, operands: list[ir.Node]) -> None:
    activation, weight = operands[:2]
    inputs = [*activation.inputs, *weight.inputs, quantize.inputs[1], quantize.inputs[2]]
    inputs += [bias.inputs[0] for bias in operands[2:]]
    behind = [] if quantize.inputs[0] is node.outputs[0] else [quantize.inputs[0].producer()]  # type: ignore[union-attr]
    constants = [value for bias in operands[2:] for value in bias.inputs[1:]]
    bounds = [value for follower in behind if follower is not None for value in follower.inputs[1:]]
    graph.become(quantize, _FORMS[node.op_type], inputs, tuple(node.attributes.values()))
    for unused in [*behind, node, *dict.fromkeys(operands)]:
        body = None if unused is None else unused.graph
        if unused is not None and body is not None and not _is_used(unused):
            body.remove(unused, safe=True)
    graph.drop_unused_constants([*constants, *bounds])


def _is_used(node: ir.Node) -> bool:
    return any(output.uses() or output.is_graph_output() for output in node.outputs)


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = match.producer(value, "DequantizeLinear")
    return None if node is None or len(node.inputs) != 3 else node


def _quantizer_behind(node: ir.Node) -> ir.Node | None:
    """The only reader of `node`, if it is a QuantizeLinear; a Relu or Clip between them must be without effect."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    reader = graph.sole_consumer(node.outputs[0])
    if reader is None or reader.graph is not node.graph:
        return None
    if graph.is_standard(reader, "QuantizeLinear") and len(reader.inputs) == 3:
        return reader
    bounds = _bounds(reader, node.outputs[0])
    quantize = None if bounds is None else graph.sole_consumer(reader.outputs[0])
    if bounds is None or quantize is None or quantize.graph is not node.graph or len(quantize.inputs) != 3:
        return None
    return quantize if graph.is_standard(quantize, "QuantizeLinear") and _saturates(quantize, *bounds) else None


def _bounds(node: ir.Node, source: ir.Value) -> tuple[float, float] | None:
    """The bounds of a Relu or Clip of `source`; None for other nodes and unknown bounds."""
    if graph.is_standard(node, "Relu"):
        return 0.0, np.inf
    if not graph.is_standard(node, "Clip") or node.inputs[0] is not source:
        return None
    ends = [(-np.inf, 1), (np.inf, 2)]
    found = [end if graph.input_at(node, i) is None else graph.scalar(node.inputs[i]) for end, i in ends]
    return None if found[0] is None or found[1] is None else (float(found[0]), float(found[1]))


def _saturates(quantize: ir.Node, low: float, high: float) -> bool:
    """Whether Q gives the same integers with and without the bounds before it."""
    scale, zero_point = graph.constant(quantize.inputs[1]), graph.constant(quantize.inputs[2])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        return False
    kind = np.iinfo(zero_point.dtype)
    ends = np.rint(np.array([low, high]) / float(scale.item())) + int(zero_point.item())
    return bool(ends[0] <= kind.min and ends[1] >= kind.max)
