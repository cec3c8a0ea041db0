"""Which nodes compute in int8, and why the others do not. Nothing is changed here.

*Kernels* (Conv, Gemm, MatMul with constant weights) are where int8 pays. *Glue* (Add, Mul, Concat, pools, look-ups)
and *movers* (Reshape, Transpose, MaxPool) follow when all they read is in int8 anyway and what they make is wanted in
int8: alone they would only add Q/DQ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from modelopt import graph
from modelopt.passes.base import Skip
from modelopt.quant import filters
from modelopt.quant.gates import before_logarithm, gate_nodes
from modelopt.quant.kernels import KERNELS, candidate, fused_output
from modelopt.quant.plan import Choice, Plan, Role, Rules

GLUE = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"})
MOVERS = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice"})
_INTEGER_OPS = re.compile(r"^(Dynamic)?Quantize|^DequantizeLinear|^QLinear|^QGemm|^QAttention|Integer|NBits")
_IN_GATE = "part of a squeeze-and-excite block or an activation, which stays whole in float"
BEFORE_LOG = "a logarithm reads its result and would turn int8's absolute error into a relative one"
_UNPROFITABLE = "int8 would save less here than quantizing and dequantizing around it costs"


def why_already_quantized(model: ir.Model) -> str | None:
    """A reason when the model holds integer arithmetic or Q/DQ, else None."""
    for node in graph.all_nodes(model):
        if _INTEGER_OPS.search(node.op_type):
            return f"the model is already quantized: it holds {graph.label(node)}"
    return None


def select(model: ir.Model, rules: Rules) -> Plan:
    """Choose the nodes of the main graph that compute in int8."""
    floats = dict.fromkeys(before_logarithm(model), BEFORE_LOG) | dict.fromkeys(gate_nodes(model), _IN_GATE)
    kernels: dict[ir.Node, Choice] = {}
    skipped: list[Skip] = []
    for node in graph.all_nodes(model):
        if node.op_type not in KERNELS | {"ConvTranspose"} or node.domain not in graph.STANDARD_DOMAINS:
            continue
        verdict = _kernel(model, node, floats, rules)
        if isinstance(verdict, Choice):
            kernels[node] = verdict
        else:
            skipped.append(Skip(graph.label(node), verdict))
    chosen, left_out = _follow(model, kernels, floats, rules)
    return Plan(tuple(chosen), (*skipped, *left_out))


def _kernel(model: ir.Model, node: ir.Node, floats: Mapping[ir.Node, str], rules: Rules) -> Choice | str:
    if node.op_type == "ConvTranspose":
        return "onnxruntime has no integer kernel for ConvTranspose"
    if node.graph is not model.graph:
        return "inside a control-flow body or a function: its activations are not observed"
    if rules.include and not any(filters.names_node(pattern, node) for pattern in rules.include):
        return "not included"
    if any(filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    if node in floats:
        return floats[node]
    if node in rules.unprofitable:
        return _UNPROFITABLE
    choice = candidate(node)
    if isinstance(choice, str):
        return choice
    for value in (*choice.inputs, fused_output(node)):
        if value.name and value.name in rules.banned:
            return f"its activation {value.name} {rules.banned[value.name]}"
    return choice


def _follow(
    model: ir.Model, kernels: dict[ir.Node, Choice], floats: Mapping[ir.Node, str], rules: Rules
) -> tuple[list[Choice], list[Skip]]:
    """Kernels and the glue and movers between them, in graph order.

    Forward: a node can follow when all it reads is available in int8. Backward: it does when its result is wanted so.
    """
    available = {value for choice in kernels.values() for value in (*choice.inputs, fused_output(choice.node))}
    can: dict[ir.Node, Choice] = dict(kernels)
    skipped: list[Skip] = []
    for node in model.graph:
        choice = None if node in kernels else _follower(node, available, floats, rules)
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


def _follower(
    node: ir.Node, available: set[ir.Value], floats: Mapping[ir.Node, str], rules: Rules
) -> Choice | str | None:
    """The choice for a node that can follow its inputs into int8, the reason why not, or None for no candidate."""
    if node.op_type not in GLUE | MOVERS or node.domain not in graph.STANDARD_DOMAINS or len(node.outputs) != 1:
        return None
    mover = node.op_type in MOVERS
    data = tuple(value for value in (node.inputs[:1] if mover else node.inputs) if value is not None)
    if not any(value in available for value in data) or any(graph.constant_tensor(value) is not None for value in data):
        return None
    if node in floats:
        return floats[node]
    if any(filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    for value in data:
        if value not in available:
            return f"it also reads {value.name}, which is in float"
    output = node.outputs[0] if mover else fused_output(node)
    if not mover and output.name and output.name in rules.banned:
        return f"its result {output.name} {rules.banned[output.name]}"
    return Choice(node, Role.MOVER if mover else Role.GLUE, data)
