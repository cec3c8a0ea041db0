"""Add and Mul of an activation and one number: the number is stored in int8 too, for the integer kernel.

One number needs one step of a scale of its own, so storing it loses nothing but the rounding of that scale to float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static import existing_qdq


def constant_of(node: ir.Node) -> ir.Value | None:
    """The operand of an Add or a Mul that is one finite float32 constant, where the other is an activation."""
    if not graph.is_standard(node, "Add", "Mul") or len(node.inputs) != 2:
        return None
    constants = [value for value in node.inputs if graph.constant_tensor(value) is not None]
    tensor = graph.constant_tensor(constants[0]) if len(constants) == 1 else None
    if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) > 1:
        return None
    return constants[0] if np.isfinite(tensor.numpy()).all() else None


def store(model: ir.Model) -> int:
    """Store the constant of each Add and Mul between DequantizeLinear and QuantizeLinear in int8; returns how many."""
    names = graph.NameSource(model, nodes=True)
    count = 0
    for scope in graph.with_bodies(model.graph):
        for node in list(scope):
            constant = constant_of(node)
            array = graph.constant(constant)
            if constant is None or array is None:
                continue
            place = next(i for i, value in enumerate(node.inputs) if value is constant)
            found = existing_qdq.quantize_behind(node, node.inputs[1 - place])
            if found is None:
                continue
            dtype = found[1].grid.type.dtype
            node.replace_input_with(place, dequantized(model, node, array, dtype, names))
            graph.drop_unused_constants([constant])
            count += 1
    return count


def dequantized(
    model: ir.Model, node: ir.Node, number: np.ndarray, dtype: np.dtype[np.generic], names: graph.NameSource
) -> ir.Value:
    """The output of a DequantizeLinear in front of `node` that makes `number`, one step above or below a zero point.

    Args:
        model: Its main graph gets the initializers.
        node: What will read the number.
        number: float32, one element.
        dtype: uint8 or int8.
        names: Of the model.
    """
    name = f"{node.outputs[0].name or node.op_type}_constant"
    value = float(number.reshape(()))
    stored, zero = (1, 0) if value > 0 else (0, 1 if value < 0 else 0)
    parts = {
        "": np.full(number.shape, stored, dtype),
        "_scale": np.array(abs(value) or 1, np.float32),
        "_zero_point": np.array(zero, dtype),
    }
    inputs = [graph.add_initializer(model.graph, names(name + part), array) for part, array in parts.items()]
    made = ir.Node("", "DequantizeLinear", inputs, name=names(f"{name}_DequantizeLinear"))
    made.outputs[0].name = names(f"{name}_dequantized")
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(number.shape)
    node.prepend(made)
    return made.outputs[0]
