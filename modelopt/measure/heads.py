"""How each output of a graph ends: the operator that gives its values, which says what they may stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from modelopt import graph
from modelopt.data.batch_axis import batch_name
from modelopt.graph.operators import LINEAR
from modelopt.measure.producers import producers, varying_inputs

_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_SIGMOID = frozenset({"Sigmoid", "HardSigmoid"})
_NORMS = frozenset({"LpNormalization"})
_KEEP_ORDER = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Add", "Dropout", "Resize"),
        *("QuantizeLinear", "DequantizeLinear", "Upsample", "ZipMap"),
    }
)
_LAYER_NORMS = frozenset(
    {
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    }
)
_POOLING = frozenset(
    {
        *("Mul", "Div", "Add", "Sub", "Sum", "ReduceSum", "ReduceMean", "ReduceMax", "Gather", "GatherND", "Slice"),
        *("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Cast", "Concat", "LpNormalization", "Clip"),
        *("Where", "Expand", "QuantizeLinear", "DequantizeLinear"),
    }
)
"""Operators that reduce the vectors of a sequence to one, or take one of them, with a mask or without."""
_POOLING_STEPS = 40
_VOCABULARY = 1000
_WIDENS = 2


class End(Enum):
    """What gives an output its values."""

    SOFTMAX = "a softmax"
    SIGMOID = "a sigmoid"
    LINEAR = "a linear layer"
    NORM = "a normalization to length 1"
    HIDDEN = "the layer normalization of hidden states"
    OTHER = "another operator"


@dataclass(frozen=True)
class Head:
    """How the graph ends at an output.

    Attributes:
        end: The last operator that is more than a change of shape or dtype.
        is_vocabulary: A linear layer to a thousand numbers or more, and to more than twice as many as it reads.
        dims: The declared dimensions, the batch first, None for one that is free; None where nothing is declared.
        batch_axis: The axis that has the name of the inputs' batch; None where none has.
    """

    end: End = End.OTHER
    is_vocabulary: bool = False
    dims: tuple[int | None, ...] | None = None
    batch_axis: int | None = None


def heads_of(model: ir.Model) -> dict[str, Head]:
    """The heads of the outputs, by name."""
    batch = batch_name(graph.signature(model).inputs)
    return {output.name: _head(output, batch) for output in model.graph.outputs if output.name is not None}


def _head(output: ir.Value, batch: str | None) -> Head:
    dims, axis = None, None
    if output.shape is not None and graph.is_plain_tensor(output):
        names = [None if isinstance(dim, int) else dim.value for dim in output.shape]
        axis = names.index(batch) if batch is not None and batch in names else None
        listed = [dim if isinstance(dim, int) else None for dim in output.shape]
        if axis:
            listed.insert(0, listed.pop(axis))
        dims = tuple(listed)
    end, is_vocabulary = _end(output)
    if end is End.OTHER and _is_hidden(output):
        end = End.HIDDEN
    return Head(end, is_vocabulary, dims, axis)


def _is_hidden(output: ir.Value) -> bool:
    """Whether an output is pooled from the hidden states of an encoder, which a layer normalization gives."""
    return any(
        node.op_type in _LAYER_NORMS or _is_layer_norm(node)
        for node in producers(output, lambda node: node.op_type in _POOLING, _POOLING_STEPS)
    )


def _is_layer_norm(node: ir.Node) -> bool:
    """Whether a Div or Mul divides by a standard deviation or a root mean square: √(mean + ε)."""
    if node.op_type not in {"Div", "Mul"} or node.inputs[1] is None:
        return False
    for divisor in node.inputs:
        chain = list(_chain(divisor, ("Reciprocal", "Sqrt", "Add", "ReduceMean")))
        if chain[-2:] == ["Add", "ReduceMean"] and "Sqrt" in chain:
            return True
    return False


def _chain(value: ir.Value | None, kinds: tuple[str, ...]) -> Iterator[str]:
    """The operators that a value comes from, along first inputs, the last first, as long as they are among `kinds`."""
    for _ in kinds:
        node = None if value is None else value.producer()
        if node is None or node.op_type not in kinds:
            return
        yield node.op_type
        value = next(iter(varying_inputs(node)), None)


def _end(value: ir.Value) -> tuple[End, bool]:
    """The end, and whether it is a linear layer to a vocabulary."""
    while (producer := value.producer()) is not None:
        kind = producer.op_type
        if kind in _SOFTMAX:
            return End.SOFTMAX, False
        if kind in _SIGMOID:
            return End.SIGMOID, False
        if kind in _NORMS or (kind == "Div" and _is_length(producer.inputs[1])):
            return End.NORM, False
        if kind == "If":
            position = producer.outputs.index(value)
            ends = [_end(body.outputs[position]) for body in graph.bodies(producer)]
            return next((each for each in ends if each[0] is not End.OTHER), (End.OTHER, False))
        if kind in LINEAR:
            weight = _weight(producer)
            return (End.OTHER, False) if weight is None else (End.LINEAR, _is_vocabulary(producer, weight))
        if kind not in _KEEP_ORDER:
            break
        varying = varying_inputs(producer)
        if not varying:
            break
        value = varying[0]
    return End.OTHER, False


def _weight(linear: ir.Node) -> ir.TensorProtocol | None:
    """The constant weight of a linear layer, perhaps dequantized; None where it reads two variable tensors."""
    read = graph.input_at(linear, 1)
    producer = None if read is None else read.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        read = producer.inputs[0]
    elif producer is not None and producer.op_type == "Transpose":
        read = producer.inputs[0]  # the output layer shares the weight of the token embedding, transposed
    return graph.constant_tensor(read)


def _is_vocabulary(linear: ir.Node, weight: ir.TensorProtocol) -> bool:
    sides = sorted(int(dim) for dim in weight.shape.numpy()[-2:])
    is_wide = len(sides) == 2 and sides[1] >= _VOCABULARY and sides[1] > _WIDENS * sides[0]
    return linear.op_type in {"Gemm", "MatMul"} and is_wide


def _is_length(value: ir.Value | None) -> bool:
    """Whether a value is the length of a vector: a root of a sum of squares, or an L2 reduction."""
    for _ in range(5):
        producer = None if value is None else value.producer()
        if producer is None:
            return False
        if producer.op_type == "ReduceL2":
            return True
        if producer.op_type == "Sqrt":
            under = producer.inputs[0]
            return under is not None and (found := under.producer()) is not None and "Sum" in found.op_type
        if producer.op_type not in {"Clip", "Max", "Expand", "Add", "Unsqueeze", "Reshape"}:
            return False
        value = producer.inputs[0]
    return False
