"""Q/DQ and integer operators that a model already holds: those of an earlier run or of another tool."""

from __future__ import annotations

import re

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.numerics.scheme import Grid, IntType, QParams, Symmetry

ALREADY = "it is quantized already: its weight comes from a DequantizeLinear"
_INTEGER_OPS = re.compile(r"^(Dynamic)?Quantize|^DequantizeLinear|^QLinear|^QGemm|^QAttention|Integer|NBits")
_MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})


def first_integer_node(model: ir.Model) -> ir.Node | None:
    """A node that quantizes, dequantizes or computes in integers, in any scope; None when there is none."""
    return next((node for node in graph.all_nodes(model) if _INTEGER_OPS.search(node.op_type)), None)


def has_integer_weight(node: ir.Node) -> bool:
    """Whether a Conv, Gemm or MatMul reads its weight from a DequantizeLinear, in whatever shape."""
    weight = graph.input_at(node, 1)
    producer = None if weight is None else weight.producer()
    while producer is not None and producer.op_type in _MOVES and producer.domain in graph.STANDARD_DOMAINS:
        moved = producer.inputs[0]
        producer = None if moved is None else moved.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def params_of(value: ir.Value) -> QParams | None:
    """The parameters of an activation that comes out of a DequantizeLinear with one scale; else None."""
    producer = value.producer()
    return None if producer is None or producer.op_type != "DequantizeLinear" else params(producer)


def is_quantized_next(value: ir.Value) -> bool:
    """Whether the only reader of `value` is a QuantizeLinear with one scale: a kernel that makes it fuses with that."""
    reader = graph.sole_consumer(value)
    return reader is not None and reader.op_type == "QuantizeLinear" and params(reader) is not None


def quantize_behind(node: ir.Node, activation: ir.Value | None) -> tuple[ir.Node, QParams] | None:
    """The QuantizeLinear that alone reads `node`, where it makes the type that `activation` is read from; else None.

    Then `node` may become an integer kernel.

    Args:
        node: A node in float with one output.
        activation: What it reads, perhaps from a DequantizeLinear.
    """
    quantize = graph.sole_consumer(node.outputs[0])
    if activation is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    read, written = params_of(activation), params(quantize)
    return (quantize, written) if read and written and read.grid.type is written.grid.type else None


def params(node: ir.Node, *, wide: bool = False) -> QParams | None:
    """The parameters of a Q or DQ with a constant scale and zero point, one of each; None for any other.

    Args:
        node: A QuantizeLinear or DequantizeLinear.
        wide: Accept 16 bits as well.
    """
    if len(node.inputs) < 3:
        return None
    scale, zero_point = graph.constant(node.inputs[1]), graph.constant(node.inputs[2])
    if scale is None or zero_point is None or scale.size != 1 or scale.dtype != "float32":
        return None
    types = (IntType.U8, IntType.S8, IntType.U16, IntType.S16) if wide else (IntType.U8, IntType.S8)
    kinds = {kind.dtype: kind for kind in types}
    if zero_point.dtype not in kinds:
        return None
    grid = Grid(kinds[zero_point.dtype], Symmetry.ASYMMETRIC)
    return QParams(scale.reshape(()), zero_point.reshape(()), grid)
