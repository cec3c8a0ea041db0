"""Remove nodes that hand on what they are given."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import NOT_HERE, Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.identities import HANDS_ON, same_in_another_shape
from modelopt.patterns.rewriter import Rewrite

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}
_COMMUTATIVE = frozenset({"Add", "Mul"})
_FIRST_OPSET_WITH_BROADCASTING = 7


class EliminateIdentity(RewritePass):
    """Remove nodes that hand on what they are given: Identity, Dropout, and operators without an effect.

    A Cast to the type that is there, a Reshape or Expand to the shape that is there, a Transpose that moves nothing, a
    Slice of everything, a Pad by nothing, a Concat of one, x · 1, x + 0 and the like; also an Unsqueeze that undoes a
    Squeeze further up. Graph outputs keep their names. Shapes declared in the model are trusted.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the one that has no effect."""
        source = _handed_on(node, opset)
        if isinstance(source, Mismatch):
            return source
        if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
            return Mismatch("its second output is used")
        reason = graph.can_replace(node.outputs[0], source)
        return (lambda: _bypass(node, source)) if reason is None else Mismatch(reason)


def _handed_on(node: ir.Node, opset: int) -> ir.Value | Mismatch:
    """The input that the first output of `node` equals, else why there is none."""
    if node.domain not in graph.STANDARD_DOMAINS or not node.inputs:
        return NOT_HERE
    if node.op_type in _NEUTRAL:
        return _other_operand(node, opset)
    rule, source = HANDS_ON.get(node.op_type), node.inputs[0]
    if rule is not None and source is not None and rule(node, opset):
        return source
    return same_in_another_shape(node) or NOT_HERE


def _other_operand(node: ir.Node, opset: int) -> ir.Value | Mismatch:
    """The operand beside a neutral number.

    x + 0 turns -0.0 into 0.0; the two are equal values, and no operator but a division by it tells them apart.
    """
    if opset < _FIRST_OPSET_WITH_BROADCASTING or len(node.inputs) != 2:
        return NOT_HERE
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op_type in _COMMUTATIVE:
        pairs.append((node.inputs[1], node.inputs[0]))
    for source, number in pairs:
        if source is not None and number is not None and graph.scalar(number) == _NEUTRAL[node.op_type]:
            return source if _keeps_shape(source, number) else Mismatch("its neutral number may add dimensions")
    return NOT_HERE


def _keeps_shape(source: ir.Value, number: ir.Value) -> bool:
    tensor = graph.constant_tensor(number)
    if tensor is None:
        return False
    rank = graph.rank(source)
    return not tensor.shape.rank() or (rank is not None and rank >= tensor.shape.rank())


def _bypass(node: ir.Node, source: ir.Value) -> None:
    output = node.outputs[0]
    if source.producer() is not None:  # the declared type of a graph input is part of the signature
        source.shape = output.shape if source.shape is None else source.shape
        source.type = output.type if source.type is None else source.type
    graph.replace_value(output, source)
