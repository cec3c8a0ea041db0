"""What kind of answer a model gives: class scores are compared by the class they choose, anything else by direction."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph

_SCORES = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "Hardmax"})
_HEADS = frozenset({"Gemm", "MatMul", "Conv"})
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_KEEP_ORDER = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Add", "Dropout"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)


def gives_class_scores(model: ir.Model) -> bool:
    """Whether some output of floats looks like scores of classes: the end of a softmax, sigmoid or linear layer.

    An embedding has the same shape but another end: a pooling, a normalization, an activation.
    """
    return any(_is_scores(output) for output in model.graph.outputs if output.dtype in {None, *_FLOATS})


def _is_scores(value: ir.Value) -> bool:
    while (producer := value.producer()) is not None:
        if producer.op_type in _SCORES:
            return True
        if producer.op_type == "If":
            position = producer.outputs.index(value)
            return any(_is_scores(body.outputs[position]) for body in graph.bodies(producer))
        if producer.op_type in _HEADS:
            return len(producer.inputs) > 1 and graph.constant_tensor(_stored(producer.inputs[1])) is not None
        if producer.op_type not in _KEEP_ORDER:
            return False
        varying = [read for read in producer.inputs if read is not None and graph.constant_tensor(read) is None]
        if not varying:
            return False
        value = varying[0]
    return False


def _stored(weight: ir.Value | None) -> ir.Value | None:
    """The constant behind a weight that is dequantized, else the weight."""
    producer = None if weight is None else weight.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else weight
