"""Integer products whose activation ranges are measured at every run.

    x_q, x_scale, x_zero = DynamicQuantizeLinear(x)
    y = Cast(MatMulInteger(x_q, w_q, x_zero, w_zero)) · (x_scale · w_scale)      [+ bias]

This is the form that onnxruntime fuses to DynamicQuantizeMatMul. Activations are u8; each distinct one is quantized
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant import scheme
from modelopt.quant.scheme import Grid, PerChannel, QParams


@dataclass(frozen=True)
class Stored:
    """A weight in int8.

    Attributes:
        integers: int8, in the layout that the integer operator reads.
        scale: float32, one per output channel, shaped to multiply the operator's result.
        zero_point: int8 zeros.
    """

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value


class Writer:
    """Rewrites nodes of one model.

    Args:
        model: The model, changed in place.
        weights: The grid of weights: s8 symmetric.
        per_channel: One scale per output channel.
    """

    def __init__(self, model: ir.Model, weights: Grid, *, per_channel: bool) -> None:
        self._names = graph.NameSource(model)
        self._grid = weights
        self._per_channel = per_channel
        self._stored: dict[tuple[ir.Value, str], Stored] = {}
        self._activations: dict[tuple[ir.Value, int], tuple[ir.Value, ...]] = {}

    def rewrite(self, node: ir.Node) -> None:
        """Replace a Gemm, MatMul or Conv that `quantize-dynamic` accepted."""
        activation, weight = node.inputs[0], node.inputs[1]
        body = node.graph
        if activation is None or weight is None or body is None:
            raise ValueError("the node was not accepted")
        stored = self._store(node, weight)
        integers, scale, zero_point = self._quantized(node, activation)
        name = node.name or node.outputs[0].name or node.op_type
        if node.op_type == "Conv":
            product = self._node(
                "ConvInteger",
                [integers, stored.integers, zero_point],
                f"{name}_integer",
                ir.DataType.INT32,
                tuple(node.attributes.values()),
            )
        else:
            inputs = [integers, stored.integers, zero_point, stored.zero_point]
            product = self._node("MatMulInteger", inputs, f"{name}_integer", ir.DataType.INT32)
        cast = self._node(
            "Cast", [product.outputs[0]], f"{name}_cast", attributes=[ir.AttrInt64("to", ir.DataType.FLOAT.value)]
        )
        scales = self._node("Mul", [scale, stored.scale], f"{name}_scales")
        result = self._node("Mul", [cast.outputs[0], scales.outputs[0]], f"{name}_scaled")
        made = [product, cast, scales, result]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            made.append(self._node("Add", [result.outputs[0], self._bias(node)], f"{name}_biased"))
        body.insert_before(node, made)
        last, old = made[-1].outputs[0], node.outputs[0]
        last.shape = old.shape
        graph.replace_value(old, last)
        body.remove(node, safe=True)
        graph.drop_if_unused(weight)

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: tuple[ir.Attr, ...] | list[ir.Attr] = (),
    ) -> ir.Node:
        output = ir.Value(name=self._names(name), type=ir.TensorType(dtype))
        return ir.Node("", op_type, inputs, attributes, outputs=[output], name=output.name)

    def _bias(self, node: ir.Node) -> ir.Value:
        """The bias, in the shape that broadcasts over the product: (C,) for Gemm, (C, 1, 1 …) for Conv."""
        bias = node.inputs[2]
        array = graph.constant(bias)
        if bias is None or node.op_type == "Gemm" or array is None:
            return bias  # type: ignore[return-value]
        spatial = len(graph.constant_tensor(node.inputs[1]).shape) - 2  # type: ignore[union-attr]
        shaped = graph.add_initializer(
            _holder(bias, node), self._names(f"{bias.name}_channels"), array.reshape(-1, *[1] * spatial)
        )
        node.replace_input_with(2, None)
        graph.drop_if_unused(bias)
        return shaped

    def _quantized(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ...]:
        """(u8, scale, zero point) of `activation`, made once in each scope that reads it."""
        body = node.graph
        key = (activation, id(body))
        if key in self._activations or body is None:
            return self._activations[key]
        stem = activation.name or "value"
        outputs = [
            ir.Value(name=self._names(f"{stem}_{part}"), type=ir.TensorType(dtype))
            for part, dtype in (
                ("u8", ir.DataType.UINT8),
                ("u8_scale", ir.DataType.FLOAT),
                ("u8_zero_point", ir.DataType.UINT8),
            )
        ]
        quantize = ir.Node("", "DynamicQuantizeLinear", [activation], outputs=outputs, name=outputs[0].name)
        body.insert_before(node, [quantize])
        self._activations[key] = tuple(outputs)
        return self._activations[key]

    def _store(self, node: ir.Node, weight: ir.Value) -> Stored:
        """The weight in int8, stored once per layout, in the scope that held the float."""
        transposed = node.op_type == "Gemm" and bool(graph.attribute_int(node, "transB", 0))
        layout = "conv" if node.op_type == "Conv" else "transposed" if transposed else "plain"
        if (weight, layout) in self._stored:
            return self._stored[(weight, layout)]
        array = graph.constant(weight)
        if array is None:
            raise ValueError("the node was not accepted")
        if transposed:
            array = array.T
        params = self._weight_params(array, layout)
        holder = _holder(weight, node)
        name = self._names(f"{weight.name}_quantized")
        scale = params.scale.reshape(-1, *[1] * (array.ndim - 2)) if layout == "conv" else params.scale
        self._stored[(weight, layout)] = Stored(
            graph.add_initializer(holder, name, scheme.quantize(array, params)),
            graph.add_initializer(holder, self._names(f"{name}_scale"), scale),
            graph.add_initializer(holder, self._names(f"{name}_zero_point"), params.zero_point),
        )
        return self._stored[(weight, layout)]

    def _weight_params(self, array: np.ndarray, layout: str) -> QParams:
        if layout == "conv":
            return scheme.weight_params(array, PerChannel(0) if self._per_channel else scheme.PerTensor(), self._grid)
        per_channel = self._per_channel and array.ndim == 2
        return scheme.weight_params(array, PerChannel(1) if per_channel else scheme.PerTensor(), self._grid)


def _holder(constant: ir.Value, node: ir.Node) -> ir.Graph:
    """The graph that holds `constant`, so that all who see the float see its int8 as well."""
    producer = constant.producer()
    scope = constant.graph if producer is None else producer.graph
    if isinstance(scope, ir.Graph):
        return scope
    if not isinstance(node.graph, ir.Graph):
        raise ValueError("the node belongs to no graph")
    return node.graph
