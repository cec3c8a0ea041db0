"""LSTM with int8 weights: onnxruntime's DynamicQuantizeLSTM, which quantizes its input and its state at every step.

Its weights have shape (directions, input, 4 · hidden): the standard operator's, transposed. Scales have shape
(directions,) or (directions, 4 · hidden); zero points are zero (onnxruntime's ContribOperators.md).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph

OPERATOR = "DynamicQuantizeLSTM"
_INPUTS = 8  # X, W, R, B, sequence_lens, initial_h, initial_c, P


def why_not(node: ir.Node) -> str | None:
    """Why a recurrent operator stays in float, else None."""
    if node.op_type != "LSTM":
        return f"onnxruntime has no {node.op_type} with int8 weights"
    if graph.attribute_int(node, "layout", 0):
        return "it takes the batch first (layout: 1), which onnxruntime's int8 LSTM does not"
    if "output_sequence" in node.attributes:
        return "it is the LSTM of an opset below 7"
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "an attribute is a parameter of the function around it"
    if len(node.inputs) < 3 or node.inputs[0] is None:
        return "an input is missing"
    return _weight_problem(node)


def _weight_problem(node: ir.Node) -> str | None:
    tensors = [graph.constant_tensor(node.inputs[index]) for index in (1, 2)]
    hidden = graph.attribute_int(node, "hidden_size", 0)
    for tensor in tensors:
        if tensor is None:
            return "its weights are not constants"
        if tensor.dtype != ir.DataType.FLOAT:
            return f"its weights are {tensor.dtype.name.lower()}, not float32"
        if len(tensor.shape) != 3 or tensor.shape[1] != 4 * hidden or tensor.size == 0:
            return f"a weight has shape {tuple(tensor.shape.numpy())}, not one row for each gate of {hidden} units"
        if not np.isfinite(tensor.numpy()).all():
            return "its weight holds NaN or Inf"
    return None


def become_int8(node: ir.Node, w: tuple[ir.Value, ir.Value, ir.Value], r: tuple[ir.Value, ir.Value, ir.Value]) -> None:
    """Turn an LSTM into `OPERATOR` in place.

    Args:
        node: An LSTM for which `why_not` is None.
        w: (int8, scale, zero point) of its input weights.
        r: Those of its recurrent weights.
    """
    optional = [*node.inputs[3:_INPUTS], *[None] * (_INPUTS - len(node.inputs))]
    attributes = [attribute for name, attribute in node.attributes.items() if name != "layout"]
    read = [node.inputs[0], w[0], r[0], *optional, *w[1:], *r[1:]]
    graph.become(node, OPERATOR, read, attributes, domain=graph.CONTRIB_DOMAIN)
