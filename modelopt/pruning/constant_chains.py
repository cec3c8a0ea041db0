"""Values that are computed from constants alone: weights that the analysis cannot shrink before they are folded."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph

_MOST_STEPS = 4


def stored_behind(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """The constant that a value is, but for Identity and Transpose, and which of its axes each axis of the value is."""
    if value is None:
        return None
    tensor = graph.constant_tensor(value)
    if tensor is not None:
        return value, tuple(range(len(tensor.shape)))
    producer = value.producer()
    if producer is None or not producer.inputs or producer.op_type not in {"Identity", "Transpose"}:
        return None
    base = producer.inputs[0]
    tensor = graph.constant_tensor(base)
    if base is None or tensor is None:
        return None
    axes = tuple(range(len(tensor.shape)))
    if producer.op_type == "Transpose":
        axes = graph.attribute_ints(producer, "perm") or axes[::-1]
        if sorted(axes) != list(range(len(tensor.shape))):
            return None
    return base, axes


def why_foldable(value: ir.Value | None) -> str | None:
    """Why a value has to be made a constant first; None where it is one, or depends on an input."""
    for _ in range(_MOST_STEPS):
        producer = None if value is None or graph.constant_tensor(value) is not None else value.producer()
        if producer is None or not producer.inputs:
            return None
        if any(graph.constant_tensor(each) is None for each in producer.inputs[1:] if each is not None):
            return None
        value = producer.inputs[0]
        if graph.constant_tensor(value) is not None:
            if producer.op_type == "DequantizeLinear":
                return "its weights are quantized: prune before quantization"
            return "its weights are computed from constants: fold first"
    return None
