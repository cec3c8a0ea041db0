"""What shapes say before anything runs: Shape and Size of values whose dimensions are known, or partly known."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from modelopt import consteval, graph
from modelopt.consteval.sizes import shape_part

_UNKNOWN = int(np.iinfo(np.int64).min)


def shape_fact(node: ir.Node, opset: int) -> np.ndarray | None:
    """What `node` gives when the known dimensions of some value decide it, else None.

    Args:
        node: Shape or Size of any value; or Gather or Slice of a Shape, which may pick just the known dimensions.
        opset: The version of the standard operator set.

    Returns:
        int64, 1-d for Shape, 0-d for Size; as the operator gives it for Gather and Slice.
    """
    if not node.inputs or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    if graph.is_standard(node, "Shape"):
        return _only_known(_dims(node))
    if graph.is_standard(node, "Size"):
        shape = _shape(source)
        return None if shape is None or _UNKNOWN in shape else np.array(math.prod(shape), np.int64)
    if graph.is_standard(node, "Gather") or graph.is_standard(node, "Slice"):
        return _picked(node, source, opset)
    return None


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    """The dimensions with `_UNKNOWN` for those that are not integers; None without a rank."""
    tensor = graph.constant_tensor(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim >= 0 else _UNKNOWN for dim in shape)


def _dims(node: ir.Node) -> np.ndarray | None:
    """What a Shape gives, with `_UNKNOWN` where it depends on the run."""
    value = node.inputs[0] if node.inputs else None
    shape = None if value is None else _shape(value)
    return None if shape is None else np.array(shape_part(node, shape), np.int64)


def _picked(node: ir.Node, source: ir.Value, opset: int) -> np.ndarray | None:
    producer = source.producer()
    if producer is None or not graph.is_standard(producer, "Shape"):
        return None
    indices = [graph.constant(value, max_bytes=1024) for value in node.inputs[1:]]
    dims = _dims(producer)
    if dims is None or any(
        index is None and value is not None for index, value in zip(indices, node.inputs[1:], strict=True)
    ):
        return None
    try:
        outputs = consteval.evaluate(node, [dims, *indices], opset)
    except consteval.NotEvaluable:
        return None  # the same inputs come again once the whole Shape is known, and the reason with them
    return None if outputs is None else _only_known(outputs[0])


def _only_known(dims: np.ndarray | None) -> np.ndarray | None:
    return None if dims is None or (dims == _UNKNOWN).any() else dims
