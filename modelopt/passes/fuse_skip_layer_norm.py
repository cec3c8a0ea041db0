"""Fuse a residual addition and the layer normalization behind it into onnxruntime's SkipLayerNormalization."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import known_equal
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite


class FuseSkipLayerNorm(RewritePass):
    """Fuse a residual addition and LayerNormalization into SkipLayerNormalization (onnxruntime only).

    ``LayerNormalization(x + skip, scale, bias)`` over the last axis of three is SkipLayerNormalization(x, skip, scale,
    bias) of onnxruntime's ContribOperators.md, whose fourth output is the sum for others that use it. Both summands
    must have the shape of the sum. A constant bias added to one of them first becomes the operator's fifth input.
    """

    contrib: ClassVar[bool] = True

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the LayerNormalization."""
        add = _sum_before(node) if graph.is_standard(node, "LayerNormalization") else None
        if add is None or match.split_constant(add) is not None:
            return match.NOT_HERE
        if reason := _why_not(node, add):
            return Mismatch(reason)
        return partial(_rewrite, node, add)


def _sum_before(norm: ir.Node) -> ir.Node | None:
    """The Add of two, which `shield-layer-norm` writes as Sum."""
    found = match.producer(norm.inputs[0], "Add") or match.producer(norm.inputs[0], "Sum")
    return found if found is not None and len(found.inputs) == 2 else None


def _why_not(norm: ir.Node, add: ir.Node) -> str | None:
    total, scale = add.outputs[0], norm.inputs[1]
    if add.graph is not norm.graph:
        return "the sum is in an outer scope"
    if graph.rank(total) != 3 or graph.attribute_int(norm, "axis", -1) not in {-1, 2}:
        return "it is not over the last of three axes"
    if len(norm.outputs) > 1 or total.dtype not in FLOAT16_FLOAT32:
        return "it has further outputs, or its type is not float32 or float16"
    if not all(_has_shape(value, total) for value in add.inputs):
        return "the summands are not known to have one shape"
    if graph.rank(scale) != 1:
        return "its scale does not have one axis"
    if _shared(add) and any(value and graph.constant_tensor(value) is None for value in norm.inputs[1:]):
        return "others use the sum, maybe before the scale and bias exist"
    if total.is_graph_output():
        return f"{graph.label(add)} is needed as it is: its output is also a graph output"
    return None


def _shared(add: ir.Node) -> bool:
    return len(add.outputs[0].uses()) > 1


def _has_shape(value: ir.Value | None, other: ir.Value) -> bool:
    """Whether two values are known to have one shape."""
    one, two = graph.dims(value), graph.dims(other)
    return one is not None and two is not None and len(one) == len(two) and all(map(known_equal, one, two))


def _rewrite(norm: ir.Node, add: ir.Node) -> None:
    total, shared = add.outputs[0], _shared(add)
    x, skip = add.inputs
    bias = None
    for first, second in ((x, skip), (skip, x)):
        found = _bias(first)
        if found is not None:
            (x, bias), skip = found, second
            break
    scale, shift = norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else None
    inputs = [x, skip, scale, shift] if bias is None else [x, skip, scale, shift, bias]
    epsilon = ir.AttrFloat32("epsilon", graph.attribute_float(norm, "epsilon", 1e-5))
    old = norm.outputs[0]
    outputs = [ir.Value(name=old.name, shape=old.shape, type=old.type)]
    if shared:
        unused = [ir.Value(name=""), ir.Value(name="")]
        outputs += [*unused, ir.Value(name=total.name, shape=total.shape, type=total.type)]
    fused = ir.Node(graph.CONTRIB_DOMAIN, "SkipLayerNormalization", inputs, [epsilon], outputs=outputs, name=norm.name)
    # The sum may have users before the normalization: the fused node stands where the sum stood.
    anchor = norm if not shared else add
    if anchor.graph is None:
        raise ValueError(f"{anchor!r} belongs to no graph")
    for value in (scale, shift, bias) if shared else ():
        _move_before(value, anchor)
    anchor.graph.insert_before(anchor, fused)
    graph.replace_value(old, fused.outputs[0])
    if shared:
        norm.replace_input_with(0, None)
        graph.replace_value(total, fused.outputs[3])


def _bias(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The variable operand and the constant, when `value` is ``v + bias`` and nothing else uses it."""
    add = match.producer(value, "Add")
    operands = None if add is None else match.split_constant(add)
    constant = None if operands is None else graph.constant_tensor(operands[1])
    if value is None or add is None or operands is None or constant is None or graph.sole_consumer(value) is None:
        return None
    same = _has_shape(operands[0], value)
    return operands if len(constant.shape) == 1 and same else None


def _move_before(value: ir.Value | None, anchor: ir.Node) -> None:
    """Make sure that a constant exists before `anchor`."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.graph is anchor.graph and anchor.graph is not None:
        anchor.graph.remove(producer)
        anchor.graph.insert_before(anchor, producer)
