"""Write a plan into a model as QDQ: QuantizeLinear and DequantizeLinear around the nodes that compute in int8.

Runtimes fuse DQ → node → Q into one integer kernel, if all are in one graph. So an activation is quantized once, behind
the node that makes it, and dequantized once in each graph that reads it: a control-flow body captures the integers.
Each constant is stored once, in int8, in the graph that held the float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import TensorError
from modelopt.quant.numerics import saturation, scheme, sqnr
from modelopt.quant.numerics.scheme import Grid, QParams
from modelopt.quant.numerics.weight_range import WeightRange, weight_params
from modelopt.quant.static import embedding_tables, existing_qdq
from modelopt.quant.static.overrides import Setting
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan, Role


@dataclass(frozen=True)
class ConstantRules:
    """How constants are stored.

    Attributes:
        weights: The grid of weights.
        per_channel: One scale per output channel where the kernel allows it.
        integer_bias: Store biases in int32 (onnxruntime adds them to the integer sum); TensorRT wants them in float.
        unsaturated: Raise scales until no sum of two products saturates in 16 bits (see `saturation`).
        weight_range: How the ranges of weights are chosen.
        settings: The overrides of single weights, by name.
    """

    weights: Grid
    per_channel: bool = True
    integer_bias: bool = True
    unsaturated: bool = False
    weight_range: WeightRange = WeightRange.MAX
    settings: Mapping[str, Setting] = field(default_factory=dict)


def sources(plan: QuantizationPlan) -> dict[ir.Value, ir.Value]:
    """For each quantized activation, the one whose scale it takes: movers keep the scale of their input."""
    movers = [choice for choice in plan.choices if choice.role is Role.MOVER]
    moved = {output: choice.inputs[0] for choice in movers for output in choice.node.outputs}
    found: dict[ir.Value, ir.Value] = {}
    for value in plan.activations():
        source = value
        while source in moved:
            source = moved[source]
        found[value] = source
    return found


class QdqWriter:
    """Rewrites one model by one plan; use it once. Then `errors` holds the quantization error of each weight.

    Args:
        model: The model, changed in place.
        plan: What computes in int8.
        params: Parameters of each source activation (see `sources`), by name.
        rules: How constants are stored.
    """

    def __init__(
        self, model: ir.Model, plan: QuantizationPlan, params: Mapping[str, QParams], rules: ConstantRules
    ) -> None:
        graph.allow_plain_initializers(model)
        self._graph = model.graph
        self._plan = plan
        self._rules = rules
        self._names = graph.NameSource(model, nodes=True)
        self._params = {value: params[source.name or ""] for value, source in sources(plan).items()}
        self._weights: dict[ir.Value, tuple[_StoredConstant, QParams]] = {}
        self._read: dict[tuple[ir.Value, int], ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self.errors: list[TensorError] = []

    def write(self) -> None:
        """Rewrite the model."""
        readers: dict[ir.Value, list[ir.Node]] = {}
        for choice in self._plan.choices:
            for value in choice.inputs:
                readers.setdefault(value, []).append(choice.node)
        groups: dict[ir.Value, list[NodeChoice]] = {}
        for choice in self._plan.choices:
            if choice.weight is not None:
                groups.setdefault(choice.weight, []).append(choice)
        for group in groups.values():
            self._write_weight(group)
        for choice in self._plan.choices:
            self._use_constants(choice)
        written = {value for choice in self._plan.choices for value in choice.written}
        for value in self._plan.activations():
            self._write_pair(value, readers.get(value, []), all_readers=value in written)

    def _write_weight(self, group: list[NodeChoice]) -> None:
        """Store a weight once for all its readers; readers that disagree on the channel axis get one scale."""
        weight = group[0].weight
        array = graph.constant(weight)
        if weight is None or array is None:
            raise ValueError("a plan was made for another model")
        axes = {choice.weight_axis for choice in group}
        axis = axes.pop() if len(axes) == 1 and self._rules.per_channel else None
        params = self._weight_params(weight.name or "", array, axis)
        kernels = [choice for choice in group if choice.role is Role.KERNEL]
        for choice in kernels if self._rules.integer_bias else []:
            bias, activation = graph.constant(choice.bias), self._params[choice.inputs[0]].scale
            if bias is not None:
                params = scheme.free_dead_channels(params, array, activation, bias)
            params = scheme.raise_for_bias(params, activation, bias)
        if self._rules.unsaturated:
            params = saturation.fit_kernels(array, params, [choice.node for choice in kernels])
        self._weights[weight] = (self._store(weight, array, params), params)
        self.errors.append(sqnr.of_weight(weight.name or "", array, params))

    def _weight_params(self, name: str, array: np.ndarray, axis: int | None) -> QParams:
        """The parameters of a weight; an override with numbers holds for all its channels."""
        setting = self._rules.settings.get(name)
        if setting is not None and setting.sets_numbers:
            return setting.params(name, self._rules.weights, float(array.min()), float(array.max()))
        return weight_params(array, axis, self._rules.weights, self._rules.weight_range)

    def _use_constants(self, choice: NodeChoice) -> None:
        if choice.weight is None:
            return
        stored, params = self._weights[choice.weight]
        if choice.role is Role.TABLE:
            per_column = stored.axis is not None
            embedding_tables.look_up(choice.node, stored.inputs, per_column=per_column, names=self._names)
            graph.drop_unused_constants([choice.weight])
            return
        key = (choice.weight, id(choice.node.graph))
        if key not in self._read:
            self._read[key] = self._dequantized(stored, choice.node)
        choice.node.replace_input_with(1, self._read[key])
        graph.drop_unused_constants([choice.weight])
        bias = graph.constant(choice.bias)
        if choice.bias is None or bias is None or not self._rules.integer_bias:
            return
        bias_params = scheme.bias_params(params, self._params[choice.inputs[0]].scale)
        integers = self._store(choice.bias, bias, bias_params)
        choice.node.replace_input_with(2, self._dequantized(integers, choice.node))
        graph.drop_unused_constants([choice.bias])

    def _write_pair(self, value: ir.Value, readers: list[ir.Node], *, all_readers: bool) -> None:
        """Add a Q behind `value`, and a DQ in each graph of `readers`.

        With `all_readers` nodes in float read the dequantized value as well, so that the Q is the only reader of
        `value`, and fuses with the kernel that makes it.
        """
        if existing_qdq.params_of(value) is not None or (all_readers and existing_qdq.is_quantized_next(value)):
            return
        params = self._params[value]
        home = graph.holder_of(value)
        name = value.name or "value"
        numbers = [
            self._shared_constant(f"{name}_scale", params.scale),
            self._shared_constant(f"{name}_zero_point", params.zero_point),
        ]
        integers = ir.Value(
            name=self._names(f"{name}_quantized"),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.from_numpy(params.grid.type.dtype)),
        )
        in_bodies: dict[ir.Graph, list[ir.Node]] = {}
        for reader in readers:
            if isinstance(reader.graph, ir.Graph) and reader.graph is not home:
                in_bodies.setdefault(reader.graph, []).append(reader)
        for body, inside in in_bodies.items():
            dequantize = self._dequantize([integers, *numbers], name, value.shape)
            body.insert_before(body[0], [dequantize])
            _read_instead(inside, value, dequantize.outputs[0])
        made = []
        nearby = [reader for reader in readers if reader.graph is home]
        if nearby or (all_readers and (value.uses() or value.is_graph_output())):
            made.append(self._dequantize([integers, *numbers], name, value.shape))
            if all_readers:
                graph.replace_value(value, made[0].outputs[0])
            _read_instead(nearby, value, made[0].outputs[0])
        quantize = ir.Node("", "QuantizeLinear", [value, *numbers], outputs=[integers])
        quantize.name = self._names(f"{name}_QuantizeLinear")
        graph.insert_behind(value, [quantize, *made])

    def _dequantize(
        self, inputs: Sequence[ir.Value], name: str, shape: ir.Shape | None, axis: int | None = None
    ) -> ir.Node:
        """A DequantizeLinear, not in a graph yet."""
        floats = ir.Value(name=self._names(f"{name}_dequantized"), shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        name = self._names(f"{name}_DequantizeLinear")
        return ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[floats], name=name)

    def _store(self, constant: ir.Value, array: np.ndarray, params: QParams) -> _StoredConstant:
        """Add the integers of a constant, with scale and zero point, to the graph that holds it."""
        holder = graph.holder_of(constant)
        name = self._names(f"{constant.name}_quantized")
        inputs = (
            graph.add_initializer(holder, name, scheme.quantize(array, params)),
            self._shared_constant(f"{name}_scale", params.scale),
            self._shared_constant(f"{name}_zero_point", params.zero_point),
        )
        return _StoredConstant(name, inputs, params.axis, array.shape)

    def _dequantized(self, stored: _StoredConstant, before: ir.Node) -> ir.Value:
        """The output of a DequantizeLinear of stored integers, placed before `before`."""
        node = self._dequantize(stored.inputs, stored.name, ir.Shape(stored.shape), stored.axis)
        graph.scope_of(before).insert_before(before, [node])
        return node.outputs[0]

    def _shared_constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer of the main graph; equal arrays share one, for many scales and zero points are equal."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = graph.add_initializer(self._graph, self._names(name), array)
        return self._constants[key]


@dataclass(frozen=True)
class _StoredConstant:
    """A constant in integers: its name, the inputs of its DequantizeLinear, its channel axis and its shape."""

    name: str
    inputs: tuple[ir.Value, ...]
    axis: int | None
    shape: tuple[int, ...]


def _read_instead(readers: list[ir.Node], old: ir.Value, new: ir.Value) -> None:
    for reader in readers:
        for i, read in enumerate(reader.inputs):
            if read is old:
                reader.replace_input_with(i, new)
