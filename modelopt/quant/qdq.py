"""Write a plan into a model: QuantizeLinear / DequantizeLinear around what computes in int8.

Runtimes fuse DQ → node → Q into one integer kernel. Each activation gets one Q/DQ pair that all its readers share; each
constant is stored once in int8 and read through a DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant import scheme
from modelopt.quant.plan import Choice, Plan, Role
from modelopt.quant.scheme import Grid, PerChannel, PerTensor, QParams


@dataclass(frozen=True)
class ConstantRules:
    """How constants are stored.

    Attributes:
        weights: The grid of weights.
        per_channel: One scale per output channel where the kernel allows it.
        integer_bias: Store biases in int32 (onnxruntime adds them to the integer sum); TensorRT wants them in float.
    """

    weights: Grid
    per_channel: bool = True
    integer_bias: bool = True


def sources(plan: Plan) -> dict[ir.Value, ir.Value]:
    """For each quantized activation, the one whose range it takes: movers pass their input's range on."""
    moved = {choice.node.outputs[0]: choice.inputs[0] for choice in plan.choices if choice.role is Role.MOVER}
    found: dict[ir.Value, ir.Value] = {}
    for value in plan.activations():
        source = value
        while source in moved:
            source = moved[source]
        found[value] = source
    return found


class Writer:
    """Rewrites one model by one plan; use it once.

    Args:
        model: The model, changed in place.
        plan: What computes in int8.
        params: Parameters of each source activation (see `sources`), by name.
        rules: How constants are stored.
    """

    def __init__(self, model: ir.Model, plan: Plan, params: Mapping[str, QParams], rules: ConstantRules) -> None:
        self._graph = model.graph
        self._plan = plan
        self._rules = rules
        self._names = graph.NameSource(model)
        self._params = {value: params[source.name or ""] for value, source in sources(plan).items()}
        self._weights: dict[ir.Value, tuple[ir.Value, QParams]] = {}
        self._constants: dict[tuple[str, int], ir.Value] = {}

    def write(self) -> None:
        """Do it."""
        readers: dict[ir.Value, list[ir.Node]] = {}
        for choice in self._plan.choices:
            for value in choice.inputs:
                readers.setdefault(value, []).append(choice.node)
        groups = self._weight_groups()
        for group in groups.values():
            self._write_weight(group)
        for choice in self._plan.choices:
            self._use_constants(choice)
        written = {choice.output for choice in self._plan.choices}
        for value in self._plan.activations():
            self._write_pair(value, None if value in written else readers[value])

    def _weight_groups(self) -> dict[ir.Value, list[Choice]]:
        groups: dict[ir.Value, list[Choice]] = {}
        for choice in self._plan.choices:
            if choice.weight is not None:
                groups.setdefault(choice.weight, []).append(choice)
        return groups

    def _write_weight(self, group: list[Choice]) -> None:
        """Store a weight once for all its readers; readers that disagree on the channel axis get one scale."""
        weight = group[0].weight
        array = graph.constant(weight)
        if weight is None or array is None:
            raise ValueError("a plan was made for another model")
        axes = {choice.weight_axis for choice in group}
        axis = axes.pop() if len(axes) == 1 and self._rules.per_channel else None
        granularity = PerTensor() if axis is None else PerChannel(axis)
        params = scheme.weight_params(array, granularity, self._rules.weights)
        for choice in group if self._rules.integer_bias else []:
            bias, activation = graph.constant(choice.bias), self._params[choice.inputs[0]].scale
            if bias is not None:
                params = scheme.free_dead_channels(params, array, activation, bias)
            params = scheme.raise_for_bias(params, activation, bias)
        stored = self._dequantized(f"{weight.name}_quantized", array, params, group[0].node)
        self._weights[weight] = (stored, params)

    def _use_constants(self, choice: Choice) -> None:
        if choice.weight is None:
            return
        stored, params = self._weights[choice.weight]
        choice.node.replace_input_with(1, stored)
        graph.drop_if_unused(choice.weight)
        bias = graph.constant(choice.bias)
        if choice.bias is None or bias is None or not self._rules.integer_bias:
            return
        bias_params = scheme.bias_params(params, self._params[choice.inputs[0]].scale)
        choice.node.replace_input_with(
            2, self._dequantized(f"{choice.bias.name}_quantized", bias, bias_params, choice.node)
        )
        graph.drop_if_unused(choice.bias)

    def _write_pair(self, value: ir.Value, readers: list[ir.Node] | None) -> None:
        """Q and DQ after `value`; with `readers` None everyone reads it through them, so that the kernel ends in Q."""
        params = self._params[value]
        producer = value.producer()
        name = value.name or "value"
        scale = self._shared_constant(f"{name}_scale", params.scale)
        zero_point = self._shared_constant(f"{name}_zero_point", params.zero_point)
        integers = ir.Value(
            name=self._names(f"{name}_quantized"),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.from_numpy(params.grid.type.dtype)),
        )
        floats = ir.Value(
            name=self._names(f"{name}_dequantized"), shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT)
        )
        dequantize = ir.Node("", "DequantizeLinear", [integers, scale, zero_point], outputs=[floats])
        if readers is None:
            graph.replace_value(value, floats)
        for reader in readers or []:
            for i, read in enumerate(reader.inputs):
                if read is value:
                    reader.replace_input_with(i, floats)
        quantize = ir.Node("", "QuantizeLinear", [value, scale, zero_point], outputs=[integers])
        for node in (quantize, dequantize):
            node.name = self._names(f"{name}_{node.op_type}")
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])

    def _dequantized(self, name: str, array: np.ndarray, params: QParams, before: ir.Node) -> ir.Value:
        """An integer initializer of `array` read through a DequantizeLinear placed before `before`."""
        free = self._names(name)
        inputs = [
            graph.add_initializer(self._graph, free, scheme.quantize(array, params)),
            graph.add_initializer(self._graph, self._names(f"{free}_scale"), params.scale),
            graph.add_initializer(self._graph, self._names(f"{free}_zero_point"), params.zero_point),
        ]
        attributes = [] if params.axis is None else [ir.AttrInt64("axis", params.axis)]
        floats = ir.Value(
            name=self._names(f"{free}_dequantized"),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        node = ir.Node(
            "", "DequantizeLinear", inputs, attributes, outputs=[floats], name=self._names(f"{free}_DequantizeLinear")
        )
        self._graph.insert_before(before, [node])
        return floats

    def _shared_constant(self, name: str, array: np.ndarray) -> ir.Value:
        """Scales and zero points are the same few numbers over and over: movers share theirs with their source."""
        key = (str(array.dtype), int.from_bytes(array.tobytes()))
        if key not in self._constants:
            self._constants[key] = graph.add_initializer(self._graph, self._names(name), array)
        return self._constants[key]
