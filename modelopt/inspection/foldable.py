"""What could be folded or fused, found by looking alone: lower bounds for what the passes do."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.inspection import sampling
from modelopt.inspection.data import Foldable
from modelopt.patterns.identities import HANDS_ON

_STAYS = frozenset(
    {"Bernoulli", "DequantizeLinear", "Multinomial", "QuantizeLinear", "RandomNormalLike", "RandomUniformLike"}
)


def foldable(model: ir.Model) -> Foldable:
    """Count what folding and fusing would look at; reads at most `sampling.DUPLICATE_BYTES` of the weights."""
    exact, likely = sampling.duplicates(tensor for _, tensor in graph.tensors(model))
    return Foldable(
        constant_nodes=sum(node.op_type != "Constant" for node in constant_nodes(model)),
        identities=sum(_hands_on(node, opset) for node, opset in graph.nodes_with_opset(model)),
        batchnorms_after_conv=sum(_follows_convolution(node) for node in graph.all_nodes(model)),
        duplicate_bytes=exact,
        likely_duplicate_bytes=likely,
        unused_bytes=_unused_bytes(model),
    )


def constant_nodes(model: ir.Model) -> set[ir.Node]:
    """Constant nodes, and nodes that compute from constants alone."""
    found: set[ir.Node] = set()
    for node in graph.all_nodes(model):
        if graph.is_standard(node, "Constant") or _computes_from_constants(node, found):
            found.add(node)
    return found


def _computes_from_constants(node: ir.Node, constant: set[ir.Node]) -> bool:
    inputs = [value for value in node.inputs if value is not None]
    if not inputs or node.domain not in graph.STANDARD_DOMAINS or node.op_type in _STAYS:
        return False
    if graph.bodies(node):
        return False
    return all(value.producer() in constant or graph.constant_tensor(value) is not None for value in inputs)


def _hands_on(node: ir.Node, opset: int) -> bool:
    if node.domain not in graph.STANDARD_DOMAINS or not node.inputs or node.inputs[0] is None:
        return False
    rule = HANDS_ON.get(node.op_type)
    return rule is not None and rule(node, opset)


def _follows_convolution(node: ir.Node) -> bool:
    if not graph.is_standard(node, "BatchNormalization") or not node.inputs or node.inputs[0] is None:
        return False
    conv = node.inputs[0].producer()
    if conv is None or conv.op_type not in {"Conv", "ConvTranspose"} or conv.domain not in graph.STANDARD_DOMAINS:
        return False
    constant_weight = graph.constant_tensor(graph.input_at(conv, 1)) is not None
    return constant_weight and graph.sole_consumer(node.inputs[0]) is node


def _unused_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for scope in graph.all_graphs(model)
        if isinstance(scope, ir.Graph)
        for value in scope.initializers.values()
        if value.const_value is not None
        and not value.uses()
        and not value.is_graph_output()
        and not value.is_graph_input()
    )
