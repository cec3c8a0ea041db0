"""onnxruntime's Attention(x, [Wq Wk Wv], [bq bk bv]) with its projection in int8.

Without an added mask it becomes QAttention. QAttention has no input for an added mask. With such a mask the projection
becomes an integer product, which is split in three for MultiHeadAttention: the rest of the same operator.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph

_KEPT = ("num_heads", "scale", "unidirectional", "mask_filter_value")
_LAST = 6  # input, weights, bias, mask_index, past, attention_bias


def is_attention(node: ir.Node) -> bool:
    """Whether `node` is onnxruntime's Attention."""
    return node.op_type == "Attention" and node.domain == graph.CONTRIB_DOMAIN


def why_not(node: ir.Node) -> str | None:
    """Why onnxruntime's Attention stays in float, else None."""
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    if 0 not in given or 1 not in given:
        return "an input is missing"
    if 4 in given or any(index >= _LAST for index in given) or len(node.outputs) > 1:
        return "it keeps keys and values of earlier runs"
    if 3 in given and 5 in given:
        return "it has two masks, and onnxruntime's int8 attention takes one"
    unknown = [name for name, attribute in node.attributes.items() if name not in _KEPT and _is_set(attribute)]
    if unknown:
        return f"onnxruntime's int8 attention has no {unknown[0]}"
    return _weight_problem(node)


def _is_set(attribute: ir.Attr) -> bool:
    return attribute.is_ref() or attribute.type != ir.AttributeType.INT or attribute.as_int() != 0


def _weight_problem(node: ir.Node) -> str | None:
    tensor, bias = graph.constant_tensor(node.inputs[1]), graph.input_at(node, 2)
    if tensor is None:
        return "its second input is an activation, not a constant weight"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, not float32"
    if len(tensor.shape) != 2 or tensor.size == 0 or tensor.shape[1] % 3 != 0:  # type: ignore[operator]
        return f"its weight has shape {tuple(tensor.shape.numpy())}, not three equal parts"
    if not np.isfinite(tensor.numpy()).all():
        return "its weight holds NaN or Inf"
    if bias is not None and graph.constant_tensor(bias) is None:
        return "its bias is not a constant"
    return None


def has_added_mask(node: ir.Node) -> bool:
    """Whether a tensor is added to its scores."""
    return graph.input_at(node, 5) is not None


def kept_attributes(node: ir.Node) -> list[ir.Attr]:
    """The attributes that QAttention and MultiHeadAttention have as well."""
    return [node.attributes[name] for name in _KEPT if name in node.attributes]
