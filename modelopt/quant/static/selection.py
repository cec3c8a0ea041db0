"""Which nodes compute in int8, and why the others do not. Nothing is changed here.

*Kernels* (Conv, Gemm, MatMul with constant weights) save time in int8. *Glue* (Add, Mul, Concat, pools) and *movers*
(Reshape, Transpose, MaxPool) become int8 where all they read is int8 and something reads their result in int8. By
themselves they would only add Q/DQ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.core.errors import InputError
from modelopt.graph import node_filters
from modelopt.io import provenance
from modelopt.quant.static import embedding_tables, existing_qdq, integer_operators, scalar_operands
from modelopt.quant.static.float_regions import GateRegions, before_logarithm, behind_convolutions, gates
from modelopt.quant.static.kernels import KERNELS, candidate, fused_output
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan, Role, SelectionRules
from modelopt.runtime import installation

_FUSED = frozenset(
    {
        *("Attention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "GroupQueryAttention"),
        *("DecoderMaskedMultiHeadAttention", "FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "GemmFastGelu"),
    }
)
_MARK = "modelopt.done."
_IN_GATE = "inside a squeeze-and-excite block or an activation, which stays in float"
BEFORE_LOG = "a logarithm reads its result and would turn int8's absolute error into a relative one"
_IN_FUNCTION = "inside a function, whose activations are not observed"
_FUSED_IN_FLOAT = "a fused operator of onnxruntime, which static quantization leaves in float"
_LOST_IN_BODIES = "onnxruntime before 1.31 loses integers that a body reads from outside"
UNPROFITABLE = "int8 is estimated to save less here than quantizing and dequantizing around it costs"


def why_already_quantized(model: ir.Model, asked_by: str = "") -> str | None:
    """A reason to leave the model as it is because it is quantized already, else None.

    Another tool may have quantized a part of the kernels: the rest can be added. Where modelopt quantized it, the rest
    is in float for a reason: it would be slower or less accurate in int8.

    Args:
        model: The model.
        asked_by: The pass that asks: what it has quantized earlier in the same run (see `mark`) it leaves as it is.
    """
    node = existing_qdq.first_integer_node(model)
    if node is None:
        return None
    has_candidates = any(_could_be_integer(other) for other in graph.all_nodes(model))
    if has_candidates and not _is_by_modelopt(model, asked_by):
        return None
    return f"the model is already quantized: it holds {graph.label(node)}"


def mark(model: ir.Model, by: str) -> None:
    """Note in the model that the pass `by` has quantized it: the provenance says so only when the file is written."""
    model.meta[_MARK + by] = True


def _is_by_modelopt(model: ir.Model, asked_by: str) -> bool:
    if _MARK + asked_by in model.meta:
        return True
    try:
        return any("quantize-" in entry.recipe for entry in provenance.read(model))
    except InputError:  # the metadata hold something else under this key
        return False


def _could_be_integer(node: ir.Node) -> bool:
    return node.op_type in KERNELS and node.domain in graph.STANDARD_DOMAINS and isinstance(candidate(node), NodeChoice)


def select(model: ir.Model, rules: SelectionRules) -> QuantizationPlan:
    """Choose the nodes that compute in int8, in the main graph and in control-flow bodies; functions stay in float."""
    gated = gates(model, integers=rules.integer_gates)
    floats = dict.fromkeys(before_logarithm(model), BEFORE_LOG) | dict.fromkeys(gated.floats, _IN_GATE)
    kernels: dict[ir.Node, NodeChoice] = {}
    tables: list[NodeChoice] = []
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
        if isinstance(verdict, NodeChoice) and not in_bodies and node.graph is not model.graph:
            verdict = _LOST_IN_BODIES
        if not isinstance(verdict, NodeChoice):
            skipped.append(Skip(graph.label(node), verdict))
        elif verdict.role is Role.TABLE:
            tables.append(verdict)
        else:
            kernels[node] = verdict
    chosen, left_out = _with_neighbours(model, kernels, floats, gated, rules)
    return QuantizationPlan((*tables, *chosen), (*skipped, *left_out))


def to_observe(model: ir.Model, plan: QuantizationPlan) -> list[str]:
    """The names of the activations to observe in calibration.

    These are the activations that will be quantized, and the outputs of kernels in bodies: a body that no sample
    executes stays in float.
    """
    made = [fused_output(c.node) for c in plan.choices if c.role is Role.KERNEL and c.node.graph is not model.graph]
    return sorted({value.name or "" for value in (*plan.activations(), *made)})


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, bool]]:
    """Every node, outer scopes first, and whether it is inside a function."""
    for scope, _, in_function in graph.scopes(model):
        for node in scope:
            yield node, in_function


def _kernel(
    node: ir.Node, table: NodeChoice | str | None, floats: Mapping[ir.Node, str], rules: SelectionRules
) -> NodeChoice | str:
    if node.op_type == "ConvTranspose":
        return "onnxruntime has no integer kernel for ConvTranspose"
    left_out = node_filters.why_left_out(node, rules.include, rules.exclude)
    if left_out is not None:
        return left_out
    if table is not None:
        return _unless_banned(table, rules)
    if node in floats:
        return floats[node]
    if node in rules.unprofitable:
        return UNPROFITABLE
    choice = _unless_banned(candidate(node), rules)
    if isinstance(choice, str):
        return choice
    for value in (*choice.inputs, fused_output(node)):
        if value.name and value.name in rules.banned:
            return f"its activation {value.name} {rules.banned[value.name]}"
    return choice


def _unless_banned(choice: NodeChoice | str, rules: SelectionRules) -> NodeChoice | str:
    """The choice, or why its weight stays in float."""
    name = "" if isinstance(choice, str) or choice.weight is None else choice.weight.name or ""
    return f"its weight {name} {rules.banned[name]}" if name in rules.banned else choice


def _with_neighbours(
    model: ir.Model,
    kernels: dict[ir.Node, NodeChoice],
    floats: Mapping[ir.Node, str],
    gated: GateRegions,
    rules: SelectionRules,
) -> tuple[list[NodeChoice], list[Skip]]:
    """The kernels, and the glue and movers between them, in graph order, outer scopes first; and why others are not.

    Two walks over the graph. The first, forwards, finds the nodes that can compute in int8, because all that they read
    is available in int8. The second, backwards, takes those of them whose result something reads in int8.
    """
    available = {value for choice in kernels.values() for value in (*choice.inputs, fused_output(choice.node))}
    available |= gated.reduced
    can: dict[ir.Node, NodeChoice] = dict(kernels)
    skipped: list[Skip] = []
    in_bodies = installation.keeps_captured_integers()
    nodes = [
        node for node, in_function in _nodes(model) if not in_function and (in_bodies or node.graph is model.graph)
    ]
    for node in nodes:
        choice = None if node in kernels else _neighbour(node, available, floats, rules)
        if isinstance(choice, NodeChoice):
            can[node] = choice
            available.update(_written(choice))
        elif choice is not None:
            skipped.append(Skip(graph.label(node), choice))
    wanted: set[ir.Value] = set(model.graph.outputs) if rules.integer_io else set()
    chosen: list[NodeChoice] = []
    for node in reversed(nodes):
        if node not in can:
            continue
        choice = can[node]
        output, *others = _written(choice)
        always = node in gated.pools or (node in kernels and node.op_type == "Conv")
        if always or not wanted.isdisjoint((output, *others)):
            choice = replace(choice, output=output, others=tuple(others))
        elif node not in kernels:
            if choice.role is Role.GLUE:
                skipped.append(Skip(graph.label(node), "nothing that reads it computes in int8"))
            continue
        wanted.update(choice.inputs)
        chosen.append(choice)
    return chosen[::-1], skipped


def _written(choice: NodeChoice) -> tuple[ir.Value, ...]:
    return tuple(choice.node.outputs) if choice.role is Role.MOVER else (fused_output(choice.node),)


def _neighbour(
    node: ir.Node, available: set[ir.Value], floats: Mapping[ir.Node, str], rules: SelectionRules
) -> NodeChoice | str | None:
    """The choice for glue or a mover whose inputs are available in int8, or why not; None for any other node."""
    if not integer_operators.is_known(node):
        return None
    mover = node.op_type in integer_operators.MOVERS
    data = integer_operators.activations(node)
    if not any(value in available for value in data) or any(graph.constant_tensor(value) is not None for value in data):
        return None
    if integer_operators.is_float(node) and any(value not in available for value in data):
        return None
    if scalar_operands.constant_of(node) is not None and not behind_convolutions(data[0]):
        return None
    reason = _why_float(node, floats, rules) or _why_not_fed(data, available) or integer_operators.why_not(node)
    if reason:
        return reason
    output = node.outputs[0] if mover else fused_output(node)
    if not mover and output.name and output.name in rules.banned:
        return f"its result {output.name} {rules.banned[output.name]}"
    return NodeChoice(node, Role.MOVER if mover else Role.GLUE, data)


def _why_float(node: ir.Node, floats: Mapping[ir.Node, str], rules: SelectionRules) -> str | None:
    """Why glue or a mover stays in float whatever it reads."""
    if not rules.integer_gates and (node.op_type == "HardSigmoid" or scalar_operands.constant_of(node) is not None):
        return "the target has no integer kernel for it"
    return floats.get(node) or node_filters.why_left_out(node, (), rules.exclude) or rules.unfit.get(node)


def _why_not_fed(data: Iterable[ir.Value], available: set[ir.Value]) -> str | None:
    return next((f"it also reads {value.name}, which is in float" for value in data if value not in available), None)
