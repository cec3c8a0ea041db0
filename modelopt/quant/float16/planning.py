"""Which nodes compute in half precision, and why the others stay in float32. Nothing is changed here.

Every node of the main graph and of If, Loop and Scan bodies that reads or makes float32 becomes half unless there is a
reason; functions stay as they are. Each change of type costs a Cast, so a node between nodes that stay in float32 stays
as well.
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
from modelopt.quant.float16.operator_types import Elements, HalfType, TypeChanges, any_input, fill
from modelopt.quant.float16.ranges import Constant, ObservedRanges, judge, why_not_value

_QUANTIZED = re.compile(r"^(Dynamic)?Quantize|^DequantizeLinear|^QLinear|^QGemm|^QAttention|^QMoE|Integer")
_BETWEEN = "it stands between nodes that stay in float32"
_SMALL = 1024  # elements of a constant: storing these in half saves too little to count (a choice)
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "FusedMatMul"})
_BN_VARIANCE = 4


@dataclass(frozen=True)
class HalfRules:
    """What the user asked for.

    Attributes:
        half: The type.
        include: Patterns of nodes to convert (see `node_filters`); empty for all.
        exclude: Patterns of nodes to leave in float32.
        limit: The largest magnitude that an activation may show in calibration.
        observed: What calibration showed; empty without data.
    """

    half: HalfType
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: float = 0.0
    observed: ObservedRanges = field(default_factory=lambda: ObservedRanges({}, 0))


@dataclass(frozen=True)
class HalfPlan:
    """The nodes that will compute in half precision.

    Attributes:
        chosen: The nodes, in graph order, with the inputs and outputs that change their type.
        skipped: The nodes that stay in float32, with the reason.
    """

    chosen: Mapping[ir.Node, TypeChanges]
    skipped: tuple[Skip, ...]


def why_not_model(model: ir.Model) -> str | None:
    """A reason when the model is half already, or quantized, else None."""
    for scope, _, inside in graph.scopes(model):
        for value in () if inside else graph.values_of(scope):
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


def _makes_half(node: ir.Node) -> bool:
    if graph.is_standard(node, "Cast"):
        return graph.attribute_int(node, "to", 0) in {int(one) for one in HALVES}
    filled = fill(node) if graph.is_standard(node, "ConstantOfShape") else None
    return filled is not None and filled.dtype in HALVES


def decide(model: ir.Model, elements: Elements, rules: HalfRules) -> HalfPlan:
    """Choose the nodes that become half."""
    changes: dict[ir.Node, TypeChanges] = {}
    floats: dict[ir.Node, str] = {}
    by_structure = sensitive_operators.counted(model, elements, rules.half) | sensitive_operators.crashing(model)
    if rules.half is HalfType.FP16:
        by_structure |= sensitive_operators.logarithms(model)
    judged: dict[ir.Value, Constant] = {}
    for scope, _, inside in graph.scopes(model):
        for node in () if inside else scope:
            if graph.is_standard(node, "Constant"):
                continue
            found = elements.changes(node, rules.half)
            if isinstance(found, str):
                changes[node], floats[node] = TypeChanges(), found
                continue
            if not found:
                continue
            changes[node] = found
            reason = node_filters.why_left_out(node, rules.include, rules.exclude)
            reason = reason or by_structure.get(node) or _why_not(node, found, elements, rules, judged)
            if reason is not None:
                floats[node] = reason
    if not rules.include:
        _keep_enclosed(model, elements, changes, floats)
    return HalfPlan(
        {node: one for node, one in changes.items() if node not in floats},
        tuple(Skip(graph.label(node), reason) for node, reason in floats.items()),
    )


def _why_not(
    node: ir.Node, changes: TypeChanges, elements: Elements, rules: HalfRules, judged: dict[ir.Value, Constant]
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
        node, changes, rules.half, judged
    )


def _why_not_constants(
    node: ir.Node, changes: TypeChanges, half: HalfType, judged: dict[ir.Value, Constant]
) -> str | None:
    for index in sorted(changes.inputs):
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


def _keep_enclosed(
    model: ir.Model, elements: Elements, changes: Mapping[ir.Node, TypeChanges], floats: dict[ir.Node, str]
) -> None:
    """Keep nodes between nodes in float32 in float32 as well, until no more are found; `floats` is changed."""
    types = _ChosenTypes(model, elements, changes, floats)
    while found := types.enclosed():
        floats.update(dict.fromkeys(found, _BETWEEN))


class _ChosenTypes:
    """Which nodes, values and readers are half, as far as it is decided."""

    def __init__(
        self, model: ir.Model, elements: Elements, changes: Mapping[ir.Node, TypeChanges], floats: Mapping[ir.Node, str]
    ) -> None:
        self._elements = elements
        self._changes = changes
        self._floats = floats
        self._owners = {body: node for node in graph.all_nodes(model) for body in graph.bodies(node)}

    def enclosed(self) -> list[ir.Node]:
        """Half nodes with float32 on both sides, one by one; if there are none, as groups of neighbours."""
        light = [node for node in self._changes if self._is_half(node) and self._is_light(node)]
        single = [node for node in light if self._is_enclosed([node])]
        return single or [node for group in self._groups(light) if self._is_enclosed(group) for node in group]

    def _is_light(self, node: ir.Node) -> bool:
        """Whether the node takes little time and has no large constant: in half it saves next to nothing."""
        if node.op_type in _HEAVY or graph.bodies(node):
            return False
        constants = (graph.constant_tensor(value) for value in node.inputs if self._elements.is_float(value))
        return all(tensor is None or tensor.size <= _SMALL for tensor in constants)

    def _groups(self, light: list[ir.Node]) -> Iterator[list[ir.Node]]:
        """Light nodes that are connected with each other."""
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
        """Whether `group` in half would be cast on both sides, or on its only side, and would need no Cast in float32.

        The types are three-valued: True for half, False for float32, None for an input of the model, which says nothing
        for or against half.
        """
        members = set(group)
        results = {out for node in group for out in self._results(node)}
        read = [self._is_made_in_half(value) for node in group for value in self._given(node) if value not in results]
        readers = [half for value in results for half in self._readers(value, members)]
        if not read:
            # The group makes floats of integers. They are exact in float32, and a reader in float32 may rely on that.
            return False in readers
        if True in read or False not in read:
            # In float32, what it reads in half would need a Cast; a group that reads model inputs alone needs one Cast
            # on that side in any case.
            return False
        # In half there are Casts before it. Behind it there are some if all readers are float32. A group without float
        # results (a comparison) has only the side before it.
        return True not in readers and (False in readers or not results)

    def _given(self, node: ir.Node) -> list[ir.Value]:
        values = [value for value in node.inputs if value is not None and self._elements.is_float(value)]
        return [value for value in values if graph.constant_tensor(value) is None]

    def _results(self, node: ir.Node) -> list[ir.Value]:
        return [out for out in node.outputs if self._elements.is_float(out)]

    def _is_half(self, node: ir.Node) -> bool:
        return node in self._changes and node not in self._floats

    def _owner(self, value: ir.Value) -> ir.Node | None:
        return self._owners.get(value.graph) if isinstance(value.graph, ir.Graph) else None

    def _is_made_in_half(self, value: ir.Value) -> bool | None:
        """Whether a value is made in half; None for an input of the model."""
        producer = value.producer()
        if producer is not None:
            return self._is_half(producer) and value.index() in self._changes[producer].outputs
        owner = self._owner(value)
        return None if owner is None else self._is_half(owner)

    def _readers(self, value: ir.Value, members: set[ir.Node]) -> Iterator[bool]:
        """For each reader outside of the group that needs one of the types, whether it reads half."""
        for user, index in value.uses():
            if user not in members and index not in any_input(user):
                yield self._is_half(user) and index in self._changes[user].inputs
        owner = self._owner(value)
        if owner is not None and value.is_graph_output():
            yield self._is_half(owner)
