"""Large initializers as graph inputs, for tools that copy every weight several times and look at none."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

_LARGE_BYTES = 1 << 16
"""Smaller initializers stay: operators read axes, scales and shapes from them."""


def without_weights(model: ir.Model) -> tuple[ir.Model, Mapping[str, ir.TensorProtocol]]:
    """A copy whose large initializers are graph inputs behind all others, and those initializers' tensors by name.

    Those of the main graph only; an initializer that is an input already stays.
    """
    copy = model.clone()
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LARGE_BYTES or value.is_graph_input():
            continue
        copy.graph.initializers.pop(name)
        value.const_value = None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        copy.graph.inputs.append(value)
        tensors[name] = tensor
    return copy, tensors


def with_weights(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Make the inputs of these names initializers again, in place.

    Raises:
        KeyError: One of them is no input.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    for name, tensor in tensors.items():
        value = inputs[name]
        model.graph.inputs.remove(value)
        value.const_value = tensor
        model.graph.register_initializer(value)
