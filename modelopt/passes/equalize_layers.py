"""See `EqualizeLayers`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass
from modelopt.quant.correction.cross_layer_equalization import LayerPair, LinearLayer, as_layer, settle

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


class EqualizeLayers(Pass):
    """Scale channels between layers so that their weights have like ranges, for int8 with one scale per tensor.

    Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1): an output channel of the first layer is
    divided by a number, and the input channel of the second layer is multiplied by it. The layers are Conv, Gemm and
    MatMul. Only Relu, LeakyRelu, PRelu, Clip to [0, ∞), pools, Pads with zeros and flattening may stand between them.
    The numbers are powers of two, so that no rounding changes. Channels whose ranges differ by less than a factor of 4
    stay. Run it after fusion, which removes each BatchNormalization between layers.

    Refused: a Clip with an upper bound (Relu6), which does not scale; values that others read; weights that others use.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Equalize every pair, in all scopes."""
        skipped: list[Skip] = []
        pairs: list[LayerPair] = []
        layers: dict[ir.Node, LinearLayer] = {}
        for node, opset in graph.nodes_with_opset(model):
            if not _is_layer(node):
                continue
            found = _pair(node, opset, layers)
            if isinstance(found, Mismatch):
                skipped.append(Skip(graph.label(node), found.reason))
                continue
            layers |= {found.first.node: found.first, found.second.node: found.second}
            pairs.append(found)
        settle(pairs)
        channels = sum(int(np.count_nonzero(pair.exponents)) for pair in pairs)
        moved = sum(bool(pair.exponents.any()) for pair in pairs)
        return Changes(moved, tuple(skipped), {"pairs": len(pairs), "channels_scaled": channels})


def _is_layer(node: ir.Node) -> bool:
    return any(graph.is_standard(node, op_type) for op_type in _LAYERS)


def _pair(node: ir.Node, opset: int, layers: dict[ir.Node, LinearLayer]) -> LayerPair | Mismatch:
    """`node` and the layer that reads it."""
    if opset < 7:
        return Mismatch(f"in opset {opset} constants broadcast by attributes")
    first = layers.get(node) or as_layer(node)
    if isinstance(first, Mismatch):
        return first
    position = _Position(first.end, opset, node.op_type != "Conv")
    while True:
        behind = _next(position)
        if isinstance(behind, Mismatch):
            return behind
        if isinstance(behind, ir.Node):
            return _closed(first, behind, position)
        position = behind


@dataclass(frozen=True)
class _Position:
    """A position between two layers.

    Attributes:
        value: The value there.
        opset: The version of the standard operators.
        flat: Whether channels are along the last axis, a block of columns for each; else along axis 1 of an image.
    """

    value: ir.Value
    opset: int
    flat: bool


def _closed(first: LinearLayer, node: ir.Node, position: _Position) -> LayerPair | Mismatch:
    if (node.op_type == "Conv") == position.flat:
        return Mismatch(f"{graph.label(node)} does not sum over its channels")
    second = as_layer(node, first.outputs)
    return (
        Mismatch(f"{graph.label(node)}: {second.reason}") if isinstance(second, Mismatch) else LayerPair(first, second)
    )


def _next(position: _Position) -> _Position | ir.Node | Mismatch:
    """The position behind the only reader of this one, or that reader if it is a layer."""
    value = position.value
    node = graph.sole_consumer(value)
    if node is None:
        return Mismatch(graph.why_not_sole(value))
    if node.graph is not value.graph or node.domain not in graph.STANDARD_DOMAINS or node.inputs[0] is not value:
        return Mismatch(f"{graph.label(node)} reads it")
    if node.op_type in _LAYERS:
        return node
    reason = _why_not_through(node, position)
    if reason is not None:
        return Mismatch(f"{graph.label(node)} {reason}")
    return replace(position, value=node.outputs[0], flat=position.flat or node.op_type in {"Flatten", "Reshape"})


def _why_not_through(node: ir.Node, position: _Position) -> str | None:
    """Why channels cannot be scaled behind `node` instead of before it."""
    if node.op_type in _RECTIFIERS:
        return None
    if node.op_type == "Clip":
        return _why_not_clip(node)
    if position.flat or (node.op_type in {"Flatten", "Reshape"} and not _flattens(node)):
        return "does not keep channels apart" if node.op_type in {"Flatten", "Reshape"} else "does not scale with it"
    if node.op_type == "Pad":
        return _why_not_pad(node, position.opset)
    return None if node.op_type in _POOLS | {"Flatten", "Reshape"} else "does not scale with it"


def _why_not_clip(node: ir.Node) -> str | None:
    """Only [0, ∞) scales; Clip-6 has its bounds as attributes, Clip-11 as inputs."""
    inputs = [value for value in node.inputs[1:2] if value is not None]
    lows = [graph.scalar(value) for value in inputs] or [graph.attribute_float(node, "min", -math.inf)]
    if "max" in node.attributes or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return "has an upper bound, which does not scale"
    return None if lows == [0] else "has a lower bound that is not 0"


def _why_not_pad(node: ir.Node, opset: int) -> str | None:
    if graph.attribute_string(node, "mode", "constant") != "constant":
        return "does not pad with zeros"
    value = graph.input_at(node, 2)
    number = graph.attribute_float(node, "value", 0.0) if value is None else graph.scalar(value)
    pads = graph.constant(node.inputs[1]) if opset >= 11 else np.array(graph.attribute_ints(node, "pads") or ())
    if number != 0 or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return "does not pad with zeros"
    if pads is None or pads.size < 4 or pads[1] or pads[pads.size // 2 + 1]:
        return "pads channels"
    return None


def _flattens(node: ir.Node) -> bool:
    """Whether an image (N, C, …) becomes rows (N, C · …)."""
    if node.op_type == "Flatten":
        return graph.attribute_int(node, "axis", 1) == 1
    target = graph.constant(node.inputs[1], max_bytes=16)
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if target is None or target.size != 2 or graph.makes_empty(node) or shape is None:
        return False
    rest = math.prod(dim if isinstance(dim, int) else 0 for dim in list(shape)[1:])
    keeps_rows = target[0] == 0 or (target[0] == shape[0] and isinstance(shape[0], int))
    return bool((keeps_rows and target[1] == -1) or (rest > 0 and target[1] == rest))
