"""Which nodes compute in int8, and why the others do not. Nothing is changed here.

Three kinds of node take part. *Kernels* (Conv, Gemm, MatMul with constant weights) are where int8 pays. *Glue* (Add,
Mul, Concat, pools, table look-ups) and *movers* (Reshape, Transpose, MaxPool) follow when all they read is in int8
anyway and what they make is wanted in int8: alone they would only add Q/DQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.passes.base import Skip
from modelopt.quant import filters
from modelopt.quant.gates import gate_nodes

GLUE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"})
MOVERS = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"})
KERNELS = frozenset({"Conv", "Gemm", "MatMul"})
QUANTIZED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_MIN_MACS_PER_MOVED_ELEMENT = 4.0


class Role(Enum):
    """Why a node takes part; see the module's docstring."""

    KERNEL = "kernel"
    GLUE = "glue"
    MOVER = "mover"


@dataclass(frozen=True)
class Choice:
    """One node that will compute in int8.

    Attributes:
        node: The node.
        role: Why it takes part.
        inputs: The activations it reads in int8.
        weight: The constant that is stored in int8.
        weight_axis: The output-channel axis of `weight`; None when only one scale for all of it is possible.
        bias: The constant that is stored in int32.
        output: What is quantized after it: its output, or that of the Relu or Clip fused to it; None for float.
    """

    node: ir.Node
    role: Role
    inputs: tuple[ir.Value, ...]
    weight: ir.Value | None = None
    weight_axis: int | None = None
    bias: ir.Value | None = None
    output: ir.Value | None = None


@dataclass(frozen=True)
class Rules:
    """What the user asked for.

    Attributes:
        include: Patterns of kernels to consider (see `filters`); empty for all.
        exclude: Patterns of nodes to leave in float.
        banned: Reasons, by name, not to quantize an activation.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    banned: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """What will be int8.

    Attributes:
        choices: In graph order.
        skipped: The candidates that stay float, with the reason.
    """

    choices: tuple[Choice, ...]
    skipped: tuple[Skip, ...]

    def activations(self) -> tuple[ir.Value, ...]:
        """The values that get Q/DQ, each once, in order of first use."""
        values: dict[ir.Value, None] = {}
        for choice in self.choices:
            values.update(dict.fromkeys(choice.inputs))
            if choice.output is not None:
                values[choice.output] = None
        return tuple(values)


def why_already_quantized(model: ir.Model) -> str | None:
    """A reason when the model holds integer arithmetic or Q/DQ, else None."""
    for node in graph.all_nodes(model):
        if node.op_type in QUANTIZED_OPS or node.op_type.startswith(("QLinear", "QGemm")) or "Integer" in node.op_type:
            return f"the model is already quantized: it holds {graph.label(node)}"
    return None


def select(model: ir.Model, rules: Rules) -> Plan:
    """Choose the nodes of the main graph that compute in int8."""
    gates = gate_nodes(model)
    kernels: dict[ir.Node, Choice] = {}
    skipped: list[Skip] = []
    for node in graph.all_nodes(model):
        if node.op_type not in KERNELS | {"ConvTranspose"} or node.domain not in graph.STANDARD_DOMAINS:
            continue
        verdict = _kernel(model, node, gates, rules)
        if isinstance(verdict, Choice):
            kernels[node] = verdict
        else:
            skipped.append(Skip(graph.label(node), verdict))
    chosen, left_out = _follow(model, kernels, gates, rules)
    return Plan(tuple(chosen), (*skipped, *left_out))


def _kernel(model: ir.Model, node: ir.Node, gates: set[ir.Node], rules: Rules) -> Choice | str:
    if node.op_type == "ConvTranspose":
        return "onnxruntime has no integer kernel for ConvTranspose"
    if node.graph is not model.graph:
        return "inside a control-flow body or a function: its activations are not observed"
    if rules.include and not any(filters.names_node(pattern, node) for pattern in rules.include):
        return "not included"
    if any(filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    if node in gates:
        return "part of a squeeze-and-excite block or an activation, which stays whole in float"
    choice = _weighted(node)
    if isinstance(choice, str):
        return choice
    for value in (*choice.inputs, fused_output(node)):
        if rules.banned and value.name in rules.banned:
            return f"its activation {value.name} {rules.banned[value.name]}"
    return choice


def _weighted(node: ir.Node) -> Choice | str:
    """The choice for a kernel by what its constants allow, or the reason against it."""
    activation = node.inputs[0]
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if activation is None or weight is None:
        return "an input is missing"
    if graph.constant_tensor(activation) is not None:
        return "its first input is a constant"
    problem = _weight_problem(weight)
    if problem:
        return problem
    if bias is not None:
        problem = _bias_problem(bias, node, weight)
        if problem:
            return problem
    if node.op_type == "Gemm":
        problem = _gemm_problem(node)
        if problem:
            return problem
    return Choice(node, Role.KERNEL, (activation,), weight, _channel_axis(node, weight), bias)


def _weight_problem(weight: ir.Value) -> str | None:
    tensor = graph.constant_tensor(weight)
    if tensor is None:
        return "its second input is an activation, not a constant weight"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, not float32"
    if tensor.size == 0:
        return "its weight is empty"
    if not np.isfinite(tensor.numpy()).all():
        return "its weight holds NaN or Inf"
    return None


def _bias_problem(bias: ir.Value, node: ir.Node, weight: ir.Value) -> str | None:
    array = graph.constant(bias)
    if array is None:
        return "its bias is not a constant"
    axis = _channel_axis(node, weight)
    channels = None if axis is None else graph.constant_tensor(weight).shape[axis]  # type: ignore[union-attr]
    if array.ndim != 1 or array.shape[0] != channels:
        return f"its bias has shape {array.shape}, not one number per output channel"
    if not np.isfinite(array).all():
        return "its bias holds NaN or Inf"
    return None


def _gemm_problem(node: ir.Node) -> str | None:
    if graph.attribute_int(node, "transA", 0):
        return "its activation is transposed (transA)"
    if graph.attribute_float(node, "alpha", 1.0) != 1.0 or graph.attribute_float(node, "beta", 1.0) != 1.0:
        return "alpha or beta is not 1"
    return None


def _channel_axis(node: ir.Node, weight: ir.Value) -> int | None:
    rank = len(graph.constant_tensor(weight).shape)  # type: ignore[union-attr]
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if graph.attribute_int(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def fused_output(node: ir.Node) -> ir.Value:
    """What the integer kernel of `node` writes: its output, or that of a Relu or Clip that runtimes fuse to it.

    Quantization saturates, so a Relu, or a Clip whose bounds hold 0 between them, is what the Q after it does anyway.
    """
    output = node.outputs[0]
    follower = graph.sole_consumer(output)
    if follower is None or follower.graph is not node.graph:
        return output
    if graph.is_standard(follower, "Relu"):
        return follower.outputs[0]
    if graph.is_standard(follower, "Clip") and follower.inputs[0] is output and _clip_holds_zero(follower):
        return follower.outputs[0]
    return output


def _clip_holds_zero(node: ir.Node) -> bool:
    low, high = (_clip_bound(node, i, name) for i, name in ((1, "min"), (2, "max")))
    return (low is None or low <= 0) and (high is None or high >= 0)


def _clip_bound(node: ir.Node, position: int, name: str) -> float | None:
    if len(node.inputs) > position and node.inputs[position] is not None:
        bound = graph.scalar(node.inputs[position])
        return float("nan") if bound is None else float(bound)
    return graph.attribute_float(node, name, 0.0) if name in node.attributes else None


def _follow(
    model: ir.Model, kernels: dict[ir.Node, Choice], gates: set[ir.Node], rules: Rules
) -> tuple[list[Choice], list[Skip]]:
    """Kernels and the glue and movers between them, in graph order.

    Forward: a node can follow when all it reads is available in int8. Backward: it does when its result is wanted so.
    """
    available = {value for choice in kernels.values() for value in (*choice.inputs, fused_output(choice.node))}
    can: dict[ir.Node, Choice] = dict(kernels)
    skipped: list[Skip] = []
    for node in model.graph:
        choice = None if node in kernels else _follower(node, available, gates, rules)
        if isinstance(choice, Choice):
            can[node] = choice
            available.add(_written(choice))
        elif choice is not None:
            skipped.append(Skip(graph.label(node), choice))
    wanted: set[ir.Value] = set()
    chosen: list[Choice] = []
    for node in reversed(list(model.graph)):
        if node not in can:
            continue
        choice = can[node]
        output = _written(choice)
        if output in wanted or (node in kernels and node.op_type == "Conv"):
            choice = replace(choice, output=output)
        elif node not in kernels:
            if choice.role is Role.GLUE:
                skipped.append(Skip(graph.label(node), "nothing that reads it computes in int8"))
            continue
        wanted.update(choice.inputs)
        chosen.append(choice)
    return chosen[::-1], skipped


def _written(choice: Choice) -> ir.Value:
    return choice.node.outputs[0] if choice.role is Role.MOVER else fused_output(choice.node)


def _follower(node: ir.Node, available: set[ir.Value], gates: set[ir.Node], rules: Rules) -> Choice | str | None:
    """The choice for a node that can follow its inputs into int8, the reason why not, or None when it is no candidate."""
    if node.op_type not in GLUE | MOVERS or node.domain not in graph.STANDARD_DOMAINS or len(node.outputs) != 1:
        return None
    mover = node.op_type in MOVERS
    data = tuple(value for value in (node.inputs[:1] if mover else node.inputs) if value is not None)
    if not any(value in available for value in data):
        return None
    if node in gates:
        return "part of a squeeze-and-excite block or an activation, which stays whole in float"
    if any(filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    for value in data:
        if value not in available:
            return f"it also reads {value.name}, which is in float"
    output = node.outputs[0] if mover else fused_output(node)
    if not mover and rules.banned and output.name in rules.banned:
        return f"its result {output.name} {rules.banned[output.name]}"
    return Choice(node, Role.MOVER if mover else Role.GLUE, data)
