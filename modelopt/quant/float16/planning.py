"""Which nodes compute in half precision, and why the others stay in float32. Nothing is changed here.

Every node of the main graph and of If, Loop and Scan bodies that reads or makes float32 becomes half unless there is a
reason; functions stay as they are. A Cast stands wherever the type changes, so nodes whose neighbours all stay in
float32 stay as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.graph import node_filters
from modelopt.graph.types import HALVES
from modelopt.quant.float16 import sensitive_operators
from modelopt.quant.float16.operator_types import Elements, HalfType, Ports, any_input, fill
from modelopt.quant.float16.ranges import Constant, Observed, judge, why_not_value

_QUANTIZED = re.compile(r"^(Dynamic)?Quantize|^DequantizeLinear|^QLinear|^QGemm|^QAttention|^QMoE|Integer")
_BETWEEN = "it stands between nodes that stay in float32"
_SMALL = 1024
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "FusedMatMul"})
_BN_VARIANCE = 4


@dataclass(frozen=True)
class Rules:
    """What the user asked for.

    Attributes:
        half: The type.
        include: Patterns of nodes to convert (see `filters`); empty for all.
        exclude: Patterns of nodes to leave in float32.
        limit: The largest magnitude that an activation may show in calibration.
        observed: What calibration showed; empty without data.
    """

    half: HalfType
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: float = 0.0
    observed: Observed = field(default_factory=lambda: Observed({}, 0))


@dataclass(frozen=True)
class Plan:
    """What will be half.

    Attributes:
        chosen: The nodes, in graph order, with what changes its type.
        skipped: The nodes that stay in float32, with the reason.
    """

    chosen: Mapping[ir.Node, Ports]
    skipped: tuple[Skip, ...]


def why_not_model(model: ir.Model) -> str | None:
    """A reason when the model is half already, or quantized, else None."""
    for scope, _, inside in graph.scopes(model):
        for value in () if inside else _values(scope):
            tensor = graph.constant_tensor(value)
            stated = value.type.dtype if isinstance(value.type, ir.TensorType) else None
            if stated in HALVES or (tensor is not None and tensor.dtype in HALVES):
                return f"the model already holds half precision: {value.name}"
        for node in scope:
            if not inside and _makes_half(node):
                return f"the model already holds half precision: {graph.label(node)}"
            if _QUANTIZED.search(node.op_type):
                return (
                    f"the model is already quantized, and half precision would break its fusions: {graph.label(node)}"
                )
    return None


def _values(scope: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    yield from scope.inputs
    if isinstance(scope, ir.Graph):
        yield from scope.initializers.values()
    for node in scope:
        yield from node.outputs


def _makes_half(node: ir.Node) -> bool:
    if graph.is_standard(node, "Cast"):
        return graph.attribute_int(node, "to", 0) in {int(one) for one in HALVES}
    filled = fill(node) if graph.is_standard(node, "ConstantOfShape") else None
    return filled is not None and filled.dtype in HALVES


def decide(model: ir.Model, elements: Elements, rules: Rules) -> Plan:
    """Choose the nodes that become half."""
    ports: dict[ir.Node, Ports] = {}
    floats: dict[ir.Node, str] = {}
    by_structure = sensitive_operators.counted(model, elements, rules.half) | sensitive_operators.crashing(model)
    if rules.half is HalfType.FP16:
        by_structure |= sensitive_operators.logarithms(model)
    judged: dict[ir.Value, Constant] = {}
    for scope, _, inside in graph.scopes(model):
        for node in () if inside else scope:
            if graph.is_standard(node, "Constant"):
                continue
            found = elements.ports(node, rules.half)
            if isinstance(found, str):
                ports[node], floats[node] = Ports(), found
                continue
            if not found:
                continue
            ports[node] = found
            reason = _unwanted(node, rules) or by_structure.get(node) or _why_not(node, found, elements, rules, judged)
            if reason is not None:
                floats[node] = reason
    if not rules.include:
        _join_islands(model, elements, ports, floats)
    return Plan(
        {node: one for node, one in ports.items() if node not in floats},
        tuple(Skip(graph.label(node), reason) for node, reason in floats.items()),
    )


def _unwanted(node: ir.Node, rules: Rules) -> str | None:
    if rules.include and not any(node_filters.names_node(pattern, node) for pattern in rules.include):
        return "not included"
    return "excluded" if any(node_filters.names_node(pattern, node) for pattern in rules.exclude) else None


def _why_not(
    node: ir.Node, ports: Ports, elements: Elements, rules: Rules, judged: dict[ir.Value, Constant]
) -> str | None:
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and elements.is_float(value)]
    active = [value for value in values if graph.constant_tensor(value) is None]
    seen = rules.observed.extents
    for value in active:
        extent = seen.get(value.name or "")
        reason = None if extent is None else why_not_value(value.name or "", extent, rules.half, rules.limit)
        if reason is not None:
            return reason
    observed = all(value.name in seen for value in active)
    return sensitive_operators.why_sensitive(node, rules.half, observed=observed) or _why_not_constants(
        node, ports, rules.half, judged
    )


def _why_not_constants(node: ir.Node, ports: Ports, half: HalfType, judged: dict[ir.Value, Constant]) -> str | None:
    for index in sorted(ports.inputs):
        value = node.inputs[index]
        if value is None or graph.constant_tensor(value) is None:
            continue
        if value not in judged:
            judged[value] = judge(value, half)
        found = judged[value]
        if found.vanishes:
            return f"its constant {value.name} of {found.largest:.3g} is 0 in {half.title}"
        is_mask = found.only_masks or (found.only_negative and sensitive_operators.reaches_softmax(node))
        if found.beyond and not is_mask:
            return f"its constant {value.name} reaches {found.largest:.3g}, and {half.title} ends at {half.largest:.5g}"
        if index == _BN_VARIANCE and graph.is_standard(node, "BatchNormalization"):
            variance = graph.constant(value)
            if variance is not None and variance.size and float(variance.min()) < half.smallest:
                return f"its variance falls to {float(variance.min()):.3g}, where {half.title} loses its precision"
    return None


# Islands: nodes between nodes that stay in float32 would only add Casts


def _join_islands(
    model: ir.Model, elements: Elements, ports: Mapping[ir.Node, Ports], floats: dict[ir.Node, str]
) -> None:
    islands = _Islands(model, elements, ports, floats)
    while found := islands.between():
        floats.update(dict.fromkeys(found, _BETWEEN))


class _Islands:
    """What is made and read in which type, as far as it is decided."""

    def __init__(
        self, model: ir.Model, elements: Elements, ports: Mapping[ir.Node, Ports], floats: Mapping[ir.Node, str]
    ) -> None:
        self._elements = elements
        self._ports = ports
        self._floats = floats
        self._owners = {body: node for node in graph.all_nodes(model) for body in graph.bodies(node)}

    def between(self) -> list[ir.Node]:
        """Half nodes that have float32 on both sides, one by one or as a group of neighbours."""
        light = [node for node in self._ports if self._is_half(node) and self._is_light(node)]
        single = [node for node in light if self._is_enclosed([node])]
        return single or [node for group in self._groups(light) if self._is_enclosed(group) for node in group]

    def _is_light(self, node: ir.Node) -> bool:
        """Whether neither the time nor the size of the model is in this node."""
        if node.op_type in _HEAVY or any(True for _ in graph.bodies(node)):
            return False
        constants = (graph.constant_tensor(value) for value in node.inputs if self._elements.is_float(value))
        return all(tensor is None or tensor.size <= _SMALL for tensor in constants)

    def _groups(self, light: list[ir.Node]) -> Iterator[list[ir.Node]]:
        """Light nodes that hand values to each other."""
        left = dict.fromkeys(light)
        while left:
            group, waiting = list[ir.Node](), [next(iter(left))]
            while waiting:
                node = waiting.pop()
                if node not in left:
                    continue
                del left[node]
                group.append(node)
                waiting += [producer for value in self._given(node) if (producer := value.producer()) is not None]
                waiting += [user for out in self._results(node) for user, _ in out.uses()]
            yield group

    def _is_enclosed(self, group: list[ir.Node]) -> bool:
        inside = {out for node in group for out in self._results(node)}
        before = [self._made(value) for node in group for value in self._given(node) if value not in inside]
        members = set(group)
        after = [half for value in inside for half in self._read(value, members)]
        if not before:  # it turns whole numbers into floats: exactly, where somebody counts on that
            return False in after
        if True in before or False not in before:
            return False
        return True not in after and (False in after or not inside)

    def _given(self, node: ir.Node) -> list[ir.Value]:
        values = [value for value in node.inputs if value is not None and self._elements.is_float(value)]
        return [value for value in values if graph.constant_tensor(value) is None]

    def _results(self, node: ir.Node) -> list[ir.Value]:
        return [out for out in node.outputs if self._elements.is_float(out)]

    def _is_half(self, node: ir.Node) -> bool:
        return node in self._ports and node not in self._floats

    def _owner(self, value: ir.Value) -> ir.Node | None:
        return self._owners.get(value.graph) if isinstance(value.graph, ir.Graph) else None

    def _made(self, value: ir.Value) -> bool | None:
        """Whether a value is made in half; None for an input of the model."""
        producer = value.producer()
        if producer is not None:
            return self._is_half(producer) and value.index() in self._ports[producer].outputs
        owner = self._owner(value)
        return None if owner is None else self._is_half(owner)

    def _read(self, value: ir.Value, members: set[ir.Node]) -> Iterator[bool]:
        """For each reader that minds and is not a member of the group, whether it reads half."""
        for user, index in value.uses():
            if user not in members and index not in any_input(user):
                yield self._is_half(user) and index in self._ports[user].inputs
        owner = self._owner(value)
        if owner is not None and value.is_graph_output():
            yield self._is_half(owner)
