"""Writes dynamic quantization: integer products whose activation ranges are measured at every run.

    x_q, x_scale, x_zero = DynamicQuantizeLinear(x)
    y = Cast(MatMulInteger(x_q, w_q, x_zero, w_zero)) · (x_scale · w_scale)      [+ bias]

onnxruntime fuses these nodes to DynamicQuantizeMatMul. Activations are u8; each is quantized once for all its readers.
LSTM and onnxruntime's Attention become onnxruntime's own operators (see `lstm` and `qattention`). Embedding tables are
stored in int8 (see `embedding_tables`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.dynamic import lstm, qattention
from modelopt.quant.numerics import saturation, scheme
from modelopt.quant.numerics.scheme import Grid
from modelopt.quant.static import embedding_tables


class StoredWeight(NamedTuple):
    """A weight in int8.

    Attributes:
        integers: int8, in the layout that the integer operator reads.
        scale: float32, one per output channel, shaped to multiply the operator's result.
        zero_point: int8 zeros of the shape that the operator takes.
    """

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value


class DynamicWriter:
    """Rewrites nodes of one model.

    Args:
        model: The model, changed in place.
        weights: The grid of weights: s8 symmetric.
        per_channel: One scale per output channel.
        unsaturated: Raise scales until no kernel that adds pairs of products in 16 bits saturates (see `saturation`).
    """

    def __init__(self, model: ir.Model, weights: Grid, *, per_channel: bool, unsaturated: bool = False) -> None:
        self._model = model
        self._names = graph.NameSource(model, nodes=True)
        self._grid = weights
        self._per_channel = per_channel
        self._unsaturated = unsaturated
        self._stored: dict[tuple[ir.Value, str], StoredWeight] = {}
        self._activations: dict[tuple[ir.Value, int], tuple[ir.Value, ...]] = {}

    def rewrite(self, node: ir.Node) -> None:
        """Quantize a node that the pass has accepted."""
        graph.allow_plain_initializers(self._model)
        if node.op_type == "Gather":
            self._rewrite_gather(node)
        elif node.op_type == "LSTM":
            self._rewrite_lstm(node)
        elif qattention.is_attention(node):
            self._rewrite_attention(node)
        else:
            self._rewrite_product(node)

    def _rewrite_gather(self, node: ir.Node) -> None:
        table, array = node.inputs[0], graph.constant(node.inputs[0])
        if table is None or array is None:
            raise ValueError("the node was not accepted")
        axis = embedding_tables.column_axis(node, array.ndim) if self._per_channel else None
        per_column = axis is not None
        layout = "columns" if per_column else "table"
        if (table, layout) not in self._stored:
            params = scheme.weight_params(array, axis, scheme.WEIGHTS)
            arrays = scheme.quantize(array, params), params.scale, params.zero_point
            self._stored[table, layout] = self._initializers(_holder(table, node), table, arrays)
        stored = self._stored[table, layout]
        embedding_tables.look_up(node, stored, per_column=per_column, names=self._names)
        graph.drop_unused_constants([table])

    def _rewrite_lstm(self, node: ir.Node) -> None:
        weights = [node.inputs[1], node.inputs[2]]
        w, r = (self._store(node, weight) for weight in weights if weight is not None)
        lstm.become_int8(node, w, r)
        for weight in dict.fromkeys(weights):
            graph.drop_unused_constants([weight])

    def _rewrite_attention(self, node: ir.Node) -> None:
        """Make an Attention QAttention, or with an added mask a product, a Split and MultiHeadAttention."""
        activation, weight = node.inputs[0], node.inputs[1]
        body, attributes = graph.scope_of(node), qattention.kept_attributes(node)
        if activation is None or weight is None:
            raise ValueError("the node was not accepted")
        stored = self._store(node, weight)
        x = self._quantized(node, activation)
        bias = graph.input_at(node, 2)
        if not qattention.has_added_mask(node):
            mask = graph.input_at(node, 3)
            if bias is None:
                zeros = np.zeros(graph.constant_tensor(weight).shape[1], np.float32)  # type: ignore[union-attr,arg-type]
                bias = graph.add_initializer(_holder(weight, node), self._names(f"{weight.name}_bias"), zeros)
            reads = [x[0], stored.integers, bias, x[1], stored.scale, mask, x[2], stored.zero_point]
            graph.become(node, "QAttention", reads, attributes, domain=graph.CONTRIB_DOMAIN)
        else:
            made = self._product(node, "MatMulInteger", x, stored, bias)
            split, parts = self._split(node, made[-1].outputs[0], weight)
            body.insert_before(node, [*made, split])
            reads = [*parts, None, None, node.inputs[5]]
            graph.become(node, "MultiHeadAttention", reads, attributes, domain=graph.CONTRIB_DOMAIN)
        graph.drop_unused_constants([weight])

    def _split(self, node: ir.Node, projection: ir.Value, weight: ir.Value) -> tuple[ir.Node, list[ir.Value]]:
        """A Split of `projection` in three equal parts along its last axis, and the parts: queries, keys and values."""
        parts = [
            ir.Value(name=self._names(f"{projection.name}_{part}"), type=ir.TensorType(ir.DataType.FLOAT))
            for part in "qkv"
        ]
        sizes = [graph.constant_tensor(weight).shape.numpy()[1] // 3] * 3  # type: ignore[union-attr]
        reads, attributes = [projection], [ir.AttrInt64("axis", 2)]
        if graph.opset(self._model) < 13:
            attributes.append(ir.AttrInt64s("split", sizes))
        else:
            reads.append(
                graph.add_initializer(_holder(weight, node), self._names(f"{projection.name}_sizes"), np.array(sizes))
            )
        return ir.Node("", "Split", reads, attributes, outputs=parts, name=parts[0].name), parts

    def _rewrite_product(self, node: ir.Node) -> None:
        activation, weight = node.inputs[0], node.inputs[1]
        body = graph.scope_of(node)
        if activation is None or weight is None:
            raise ValueError("the node was not accepted")
        stored = self._store(node, weight)
        x = self._quantized(node, activation)
        bias = self._bias(node) if graph.input_at(node, 2) is not None else None
        op_type = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
        made = self._product(node, op_type, x, stored, bias)
        body.insert_before(node, made)
        last, old = made[-1].outputs[0], node.outputs[0]
        last.shape = old.shape
        graph.replace_value(old, last)
        body.remove(node, safe=True)
        graph.drop_unused_constants([weight])

    def _product(
        self, node: ir.Node, op_type: str, x: tuple[ir.Value, ...], stored: StoredWeight, bias: ir.Value | None
    ) -> list[ir.Node]:
        """The nodes of an integer product with its scaling and bias; the last node's output is the float result."""
        integers, scale, zero_point = x
        name = node.name or node.outputs[0].name or node.op_type
        if op_type == "ConvInteger":
            inputs = [integers, stored.integers, zero_point]
            attributes = tuple(node.attributes.values())
        else:
            inputs = [integers, stored.integers, zero_point, stored.zero_point]
            attributes = ()
        product = self._node(op_type, inputs, f"{name}_integer", ir.DataType.INT32, attributes)
        cast = self._node(
            "Cast", [product.outputs[0]], f"{name}_cast", attributes=[ir.AttrInt64("to", ir.DataType.FLOAT.value)]
        )
        scales = self._node("Mul", [scale, stored.scale], f"{name}_scales")
        result = self._node("Mul", [cast.outputs[0], scales.outputs[0]], f"{name}_scaled")
        made = [product, cast, scales, result]
        if bias is not None:
            made.append(self._node("Add", [result.outputs[0], bias], f"{name}_biased"))
        return made

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
        graph.drop_unused_constants([bias])
        return shaped

    def _quantized(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ...]:
        """(u8, scale, zero point) of `activation`, computed once in each graph that reads it."""
        body = graph.scope_of(node)
        key = (activation, id(body))
        if key in self._activations:
            return self._activations[key]
        prefix = activation.name or "value"
        outputs = [
            ir.Value(name=self._names(f"{prefix}_{part}"), type=ir.TensorType(dtype))
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

    def _store(self, node: ir.Node, weight: ir.Value) -> StoredWeight:
        """The weight in int8, stored once per layout, in the graph that held the float weight."""
        transposed = node.op_type == "Gemm" and bool(graph.attribute_int(node, "transB", 0))
        layout = node.op_type if node.op_type in {"Conv", "LSTM"} else "transposed" if transposed else "plain"
        if (weight, layout) in self._stored:
            return self._stored[(weight, layout)]
        array = graph.constant(weight)
        if array is None:
            raise ValueError("the node was not accepted")
        if transposed:
            array = array.T
        arrays = self._lstm_weight(array.transpose(0, 2, 1)) if layout == "LSTM" else self._weight(array, layout)
        self._stored[(weight, layout)] = self._initializers(_holder(weight, node), weight, arrays)
        return self._stored[(weight, layout)]

    def _initializers(
        self, holder: ir.Graph, weight: ir.Value, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> StoredWeight:
        name = self._names(f"{weight.name}_quantized")
        names = name, self._names(f"{name}_scale"), self._names(f"{name}_zero_point")
        made = (graph.add_initializer(holder, each, array) for each, array in zip(names, arrays, strict=True))
        return StoredWeight(*made)

    def _weight(self, array: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(int8, scale, zero point) of a matrix (depth, columns), a stack of them, or a convolution's kernel."""
        per_channel = self._per_channel and (layout == "Conv" or array.ndim == 2)
        axis = 0 if layout == "Conv" else 1
        params = scheme.weight_params(array, axis if per_channel else None, self._grid)
        if self._unsaturated:
            # ConvInteger gathers its input channel by channel, unlike QLinearConv: the matrix is the weight as it is.
            params = saturation.fitted(array, params, _rows_of_conv if layout == "Conv" else saturation.stack)
        integers = scheme.quantize(array, params)
        scale = params.scale
        if layout == "Conv" and per_channel:
            scale = scale.reshape(-1, *[1] * (array.ndim - 2))
        return integers, scale, params.zero_point

    def _lstm_weight(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(int8, scale, zero point) of (directions, depth, 4 · hidden); scales start with the direction."""
        directions = []
        for matrix in array:
            params = scheme.weight_params(matrix, 1 if self._per_channel else None, self._grid)
            if self._unsaturated:
                params = saturation.fitted(matrix, params, saturation.stack)
            directions.append((matrix, params))
        return (
            np.stack([scheme.quantize(matrix, params) for matrix, params in directions]),
            np.stack([params.scale for _, params in directions]),
            np.stack([params.zero_point for _, params in directions]),
        )


def _rows_of_conv(integers: np.ndarray) -> list[np.ndarray]:
    return [integers.reshape(len(integers), -1).T]


def _holder(constant: ir.Value, node: ir.Node) -> ir.Graph:
    """The graph that holds `constant`: all nodes that can read the float can read its int8 there."""
    producer = constant.producer()
    scope = constant.graph if producer is None else producer.graph
    if isinstance(scope, ir.Graph):
        return scope
    if not isinstance(node.graph, ir.Graph):
        raise ValueError("the node belongs to no graph")
    return node.graph
