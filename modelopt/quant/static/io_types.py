"""Integer types for the inputs and outputs of a quantized model, without Q and DQ there.

x → QuantizeLinear → x_quantized → …      becomes    x (u8) → …
… → y_quantized → DequantizeLinear → y    becomes    … → y (u8)
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.graph.quantized_io import KEY, IntegerIo, QuantizationParameters, declared
from modelopt.quant.static import existing_qdq


@dataclass(frozen=True)
class IntegerIoResult:
    """What `make_integer` did.

    Attributes:
        io: The inputs and outputs that are integers now.
        skipped: The inputs and outputs that stay float32, with the reason.
    """

    io: IntegerIo
    skipped: tuple[Skip, ...]


def make_integer(model: ir.Model) -> IntegerIoResult:
    """Make inputs integers where a Q reads them, and outputs where a DQ makes them; `model` is changed in place."""
    inputs: dict[str, QuantizationParameters] = {}
    outputs: dict[str, QuantizationParameters] = {}
    skipped: list[Skip] = []
    for value in list(model.graph.inputs):
        if value.dtype == ir.DataType.FLOAT and value.name and value.name not in model.graph.initializers:
            found = _make_input_integer(value)
            if isinstance(found, QuantizationParameters):
                inputs[value.name] = found
            else:
                skipped.append(Skip(value.name, f"this input stays float32: {found}"))
    for index, value in enumerate(model.graph.outputs):
        if value.dtype == ir.DataType.FLOAT and value.name:
            name = value.name
            found = _make_output_integer(model.graph, index, value)
            if isinstance(found, QuantizationParameters):
                outputs[name] = found
            else:
                skipped.append(Skip(name, f"this output stays float32: {found}"))
    before = declared(model.metadata_props)
    io = IntegerIo({**before.inputs, **inputs}, {**before.outputs, **outputs})
    if inputs or outputs:
        model.metadata_props[KEY] = msgspec.json.encode(io).decode()
    return IntegerIoResult(io, tuple(skipped))


def _make_input_integer(value: ir.Value) -> QuantizationParameters | str:
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or any(reader.op_type != "QuantizeLinear" for reader in readers) or not readers:
        return "nodes read it in float"
    found = {_affine(reader) for reader in readers}
    affine = found.pop()
    if found or affine is None:
        return "it is not quantized in one way, with one scale"
    for reader in readers:
        graph.replace_value(reader.outputs[0], value)
        graph.remove_with_constants(reader)
    value.type = ir.TensorType(ir.DataType[affine.dtype.upper()])
    return affine


def _make_output_integer(scope: ir.Graph, index: int, value: ir.Value) -> QuantizationParameters | str:
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.graph is not scope:
        return "it is made in float"
    affine, integers = _affine(dequantize), dequantize.inputs[0]
    if affine is None or integers is None:
        return "it has more than one scale"
    if value.uses() or sum(value is other for other in scope.outputs) > 1:
        return "nodes read it in float"
    if integers.producer() is None or integers.is_graph_output() or integers.is_graph_input():
        return "its integers are an input or an output themselves"
    integers.shape = value.shape if integers.shape is None else integers.shape
    integers.type = ir.TensorType(ir.DataType[affine.dtype.upper()])
    name = value.name
    scope.outputs[index] = integers
    graph.remove_with_constants(dequantize)
    integers.name = name
    return affine


def _affine(node: ir.Node) -> QuantizationParameters | None:
    params = existing_qdq.params(node, wide=True)
    if params is None:
        return None
    return QuantizationParameters(params.grid.type.value, float(params.scale), int(params.zero_point))  # type: ignore[arg-type]
