"""Compute equal things once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.passes.base import Pass
from modelopt.patterns import runtime_kernels as protected

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",  # it may be in training mode
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# Equal constants are for dedup-initializers. onnxruntime makes integer kernels of Q/DQ pairs with one reader each.
_LEFT_ALONE = _RANDOM | {"Constant", "QuantizeLinear", "DequantizeLinear"}
_DETERMINISTIC_DOMAINS = graph.STANDARD_DOMAINS | {"ai.onnx.ml"}
_MAX_ATTRIBUTE_BYTES = 1024

_PLAIN = frozenset(
    {
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS,
        ir.AttributeType.STRING,
        ir.AttributeType.STRINGS,
    }
)

_Known = MutableMapping[Hashable, ir.Node]


@dataclass(frozen=True, kw_only=True)
class EliminateCommon(Pass):
    """Compute once what equal nodes compute: same operator, same inputs, same attributes.

    A node in a body of If, Loop or Scan gives way to an equal one before it in an outer scope too. Random operators,
    functions, other domains' operators, whatever holds a body, and Q/DQ stay; where both results are graph outputs,
    both stay, for each needs its own name. So do parts of two patterns that are one operator each when they are fused,
    as two layer normalizations of one input by other scales: sharing the mean would leave neither whole.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Walk each scope once: a node that goes makes its consumers equal before they are reached."""
        skipped: list[Skip] = []
        rewrites = _merge_in(model.graph, {}, model, graph.opset(model), skipped)
        for function in model.functions.values():
            rewrites += _merge_in(function, {}, model, graph.standard_version(function.opset_imports), skipped)
        return Changes(rewrites, tuple(skipped))


def _merge_in(scope: ir.Graph | ir.Function, known: _Known, model: ir.Model, opset: int, skipped: list[Skip]) -> int:
    rewrites = 0
    for node in scope:
        for body in graph.bodies(node):
            rewrites += _merge_in(body, ChainMap({}, known), model, opset, skipped)
        key = None if node.op_identifier() in model.functions else _key(node)
        if key is None:
            continue
        equal = known.setdefault(key, node)
        if equal is node:
            continue
        reason = _why_not(node, equal) or protected.why_not_merge(node, equal, opset)
        if reason is None:
            _merge(node, equal)
            rewrites += 1
        else:
            skipped.append(Skip(graph.label(node), f"equal to {graph.label(equal)}, but {reason}"))
    return rewrites


def _key(node: ir.Node) -> Hashable | None:
    """What two nodes have in common when they compute the same; None for a node that is not compared."""
    if node.domain not in _DETERMINISTIC_DOMAINS or node.op_type in _LEFT_ALONE:
        return None
    attributes = []
    for name in sorted(node.attributes):
        value = _attribute_key(node.attributes[name])
        if value is None:
            return None
        attributes.append((name, value))
    present = tuple(bool(out.name) for out in node.outputs)  # operators may do more for an optional output
    return node.op_identifier(), tuple(node.inputs), tuple(attributes), present


def _attribute_key(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref():
        return "ref", attribute.ref_attr_name, attribute.type
    if attribute.type in _PLAIN:
        return attribute.type, repr(attribute.value)  # as text, -0.0 is not 0.0
    if attribute.type != ir.AttributeType.TENSOR:
        return None
    tensor: ir.TensorProtocol = attribute.value
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes > _MAX_ATTRIBUTE_BYTES:
        return None
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()


def _why_not(node: ir.Node, equal: ir.Node) -> str | None:
    reasons = (graph.can_replace(old, new) for old, new in zip(node.outputs, equal.outputs, strict=True))
    return next((reason for reason in reasons if reason is not None), None)


def _merge(node: ir.Node, equal: ir.Node) -> None:
    for old, new in zip(node.outputs, equal.outputs, strict=True):
        new.shape = old.shape if new.shape is None else new.shape
        new.type = old.type if new.type is None else new.type
        if old.name:
            graph.replace_value(old, new)
    graph.remove_if_dead(node)
