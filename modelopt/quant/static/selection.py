"""Which nodes compute in int8, and why the others do not. Nothing is changed here.

*Kernels* (Conv, Gemm, MatMul with constant weights) are where int8 pays. *Glue* (Add, Mul, Concat, pools, look-ups)
and *movers* (Reshape, Transpose, MaxPool) follow when all they read is in int8 anyway and what they make is wanted in
int8: alone they would only add Q/DQ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.core.errors import InputError
from modelopt.graph import node_filters
from modelopt.io import provenance
from modelopt.quant.static import embedding_tables, existing_qdq, integer_operators
from modelopt.quant.static.float_regions import before_logarithm, gate_nodes
from modelopt.quant.static.kernels import KERNELS, candidate, fused_output
from modelopt.quant.static.plan import Choice, Plan, Role, Rules
from modelopt.runtime import installation

_FUSED = frozenset(
    {
        *("Attention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "GroupQueryAttention"),
        *("DecoderMaskedMultiHeadAttention", "FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "GemmFastGelu"),
    }
)
_MARK = "modelopt.done."
_IN_GATE = "part of a squeeze-and-excite block or an activation, which stays whole in float"
BEFORE_LOG = "a logarithm reads its result and would turn int8's absolute error into a relative one"
_IN_FUNCTION = "inside a function, whose activations are not observed"
_FUSED_IN_FLOAT = "a fused operator of onnxruntime, which static quantization leaves in float"
_LOST_IN_BODIES = "onnxruntime before 1.31 loses integers that a body reads from outside"
_UNPROFITABLE = "int8 is estimated to save less here than quantizing and dequantizing around it costs"


def why_already_quantized(model: ir.Model, asked_by: str = "") -> str | None:
    """A reason to leave the integers of the model as they are, else None.

    A model that holds some and leaves kernels in float may be completed, unless it was us who left them: what does not
    pay or costs accuracy stays float for a reason.

    Args:
        model: The model.
        asked_by: The pass that asks: what it marked earlier in the same run it leaves alone, too.
    """
    node = existing_qdq.first_integer_node(model)
    if node is None or not (
        _is_ours(model, asked_by) or not any(_could_be_integer(other) for other in graph.all_nodes(model))
    ):
        return None
    return f"the model is already quantized: it holds {graph.label(node)}"


def mark(model: ir.Model, by: str) -> None:
    """Remember, until the file's provenance says it, that the pass `by` is done with the model."""
    model.meta[_MARK + by] = True


def _is_ours(model: ir.Model, asked_by: str) -> bool:
    try:
        history = provenance.read(model)
    except InputError:
        history = ()
    return _MARK + asked_by in model.meta or any("quantize-" in entry.recipe for entry in history)


def _could_be_integer(node: ir.Node) -> bool:
    return node.op_type in KERNELS and node.domain in graph.STANDARD_DOMAINS and isinstance(candidate(node), Choice)


def select(model: ir.Model, rules: Rules) -> Plan:
    """Choose the nodes that compute in int8, in the main graph and in bodies; functions stay as they are."""
    floats = dict.fromkeys(before_logarithm(model), BEFORE_LOG) | dict.fromkeys(gate_nodes(model), _IN_GATE)
    kernels: dict[ir.Node, Choice] = {}
    looked_up: list[Choice] = []
    skipped: list[Skip] = []
    in_bodies = installation.keeps_captured_integers()
    for node, in_function in _nodes(model):
        if node.domain == graph.CONTRIB_DOMAIN and node.op_type in _FUSED:
            skipped.append(Skip(graph.label(node), _FUSED_IN_FLOAT))
        table = embedding_tables.candidate(node)
        if table is None and (
            node.op_type not in KERNELS | {"ConvTranspose"} or node.domain not in graph.STANDARD_DOMAINS
        ):
            continue
        verdict = _IN_FUNCTION if in_function else _kernel(node, table, floats, rules)
        if isinstance(verdict, Choice) and not in_bodies and node.graph is not model.graph:
            verdict = _LOST_IN_BODIES
        if not isinstance(verdict, Choice):
            skipped.append(Skip(graph.label(node), verdict))
        elif verdict.role is Role.TABLE:
            looked_up.append(verdict)
        else:
            kernels[node] = verdict
    chosen, left_out = _follow(model, kernels, floats, rules)
    return Plan((*looked_up, *chosen), (*skipped, *left_out))


def to_observe(model: ir.Model, plan: Plan) -> list[str]:
    """The names of what calibration has to show.

    That is what will be quantized, and what kernels in bodies make: a body that no sample executes stays in float.
    """
    made = [fused_output(c.node) for c in plan.choices if c.role is Role.KERNEL and c.node.graph is not model.graph]
    return sorted({value.name or "" for value in (*plan.activations(), *made)})


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, bool]]:
    """Every node, outer scopes first, and whether it is inside a function."""
    for scope, _, in_function in graph.scopes(model):
        for node in scope:
            yield node, in_function


def _kernel(node: ir.Node, table: Choice | str | None, floats: Mapping[ir.Node, str], rules: Rules) -> Choice | str:
    if node.op_type == "ConvTranspose":
        return "onnxruntime has no integer kernel for ConvTranspose"
    if rules.include and not any(node_filters.names_node(pattern, node) for pattern in rules.include):
        return "not included"
    if any(node_filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    if table is not None:
        return _unless_banned(table, rules)
    if node in floats:
        return floats[node]
    if node in rules.unprofitable:
        return _UNPROFITABLE
    choice = _unless_banned(candidate(node), rules)
    if isinstance(choice, str):
        return choice
    for value in (*choice.inputs, fused_output(node)):
        if value.name and value.name in rules.banned:
            return f"its activation {value.name} {rules.banned[value.name]}"
    return choice


def _unless_banned(choice: Choice | str, rules: Rules) -> Choice | str:
    """The choice, or why its weight stays in float."""
    name = "" if isinstance(choice, str) or choice.weight is None else choice.weight.name or ""
    return f"its weight {name} {rules.banned[name]}" if name in rules.banned else choice


def _follow(
    model: ir.Model, kernels: dict[ir.Node, Choice], floats: Mapping[ir.Node, str], rules: Rules
) -> tuple[list[Choice], list[Skip]]:
    """Kernels and the glue and movers between them, in graph order, outer scopes first.

    Forward: a node can follow when all it reads is available in int8. Backward: it does when its result is wanted so.
    """
    available = {value for choice in kernels.values() for value in (*choice.inputs, fused_output(choice.node))}
    can: dict[ir.Node, Choice] = dict(kernels)
    skipped: list[Skip] = []
    in_bodies = installation.keeps_captured_integers()
    nodes = [
        node for node, in_function in _nodes(model) if not in_function and (in_bodies or node.graph is model.graph)
    ]
    for node in nodes:
        choice = None if node in kernels else _follower(node, available, floats, rules)
        if isinstance(choice, Choice):
            can[node] = choice
            available.update(_written(choice))
        elif choice is not None:
            skipped.append(Skip(graph.label(node), choice))
    wanted: set[ir.Value] = set(model.graph.outputs) if rules.integer_io else set()
    chosen: list[Choice] = []
    for node in reversed(nodes):
        if node not in can:
            continue
        choice = can[node]
        output, *others = _written(choice)
        if not wanted.isdisjoint((output, *others)) or (node in kernels and node.op_type == "Conv"):
            choice = replace(choice, output=output, others=tuple(others))
        elif node not in kernels:
            if choice.role is Role.GLUE:
                skipped.append(Skip(graph.label(node), "nothing that reads it computes in int8"))
            continue
        wanted.update(choice.inputs)
        chosen.append(choice)
    return chosen[::-1], skipped


def _written(choice: Choice) -> tuple[ir.Value, ...]:
    return tuple(choice.node.outputs) if choice.role is Role.MOVER else (fused_output(choice.node),)


def _follower(
    node: ir.Node, available: set[ir.Value], floats: Mapping[ir.Node, str], rules: Rules
) -> Choice | str | None:
    """The choice for a node that can follow its inputs into int8, the reason why not, or None for no candidate."""
    if not integer_operators.is_known(node):
        return None
    mover = node.op_type in integer_operators.MOVERS
    data = integer_operators.activations(node)
    if not any(value in available for value in data) or any(graph.constant_tensor(value) is not None for value in data):
        return None
    if node in floats:
        return floats[node]
    if any(node_filters.names_node(pattern, node) for pattern in rules.exclude):
        return "excluded"
    if node in rules.unfit:
        return rules.unfit[node]
    for value in data:
        if integer_operators.is_float(node) and value not in available:
            return None
        if value not in available:
            return f"it also reads {value.name}, which is in float"
    reason = integer_operators.why_not(node)
    if reason:
        return reason
    output = node.outputs[0] if mover else fused_output(node)
    if not mover and output.name and output.name in rules.banned:
        return f"its result {output.name} {rules.banned[output.name]}"
    return Choice(node, Role.MOVER if mover else Role.GLUE, data)
