"""Values that are computed from constants alone: weights that the analysis cannot shrink before they are folded."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph

_MOST_STEPS = 4


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
