"""What a model holds: its signature, its stored tensors, what it declares."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import onnx_ir as ir

from modelopt.core.signature import Signature, TensorSpec
from modelopt.graph.types import type_text
from modelopt.graph.values import constant_node_tensor, dims, is_standard
from modelopt.graph.walking import all_graphs


def signature(model: ir.Model) -> Signature:
    """Inputs (without initializers) and outputs of the main graph."""
    initializers = model.graph.initializers
    return Signature(
        tuple(_spec(value) for value in model.graph.inputs if value.name not in initializers),
        tuple(_spec(value) for value in model.graph.outputs),
    )


def _spec(value: ir.Value) -> TensorSpec:
    shape = dims(value)
    if not isinstance(value.type, ir.TensorType):
        return TensorSpec(value.name or "", "unknown" if value.type is None else type_text(value.type), shape)
    return TensorSpec(value.name or "", _dtype_name(value.type.dtype), shape)


@functools.cache
def _dtype_name(dtype: ir.DataType) -> str:
    return "string" if dtype == ir.DataType.STRING else dtype.numpy().name


def tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every stored tensor in every scope, once each: initializers, and `value` of Constant nodes, with a name."""
    seen: set[int] = set()
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph):
            for name, value in graph.initializers.items():
                if value.const_value is not None and id(value.const_value) not in seen:
                    seen.add(id(value.const_value))
                    yield name, value.const_value
        for node in graph:
            if is_standard(node, "Constant"):
                tensor = constant_node_tensor(node)
                if tensor is not None:
                    yield node.outputs[0].name or "", tensor


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors."""
    return sum(tensor.nbytes for _, tensor in tensors(model))


def declared_values(model: ir.Model) -> frozenset[str]:
    """Names of intermediate values in any scope whose type the model states."""
    return frozenset(
        out.name
        for scope in all_graphs(model)
        for node in scope
        for out in node.outputs
        if out.name and out.type is not None
    )
