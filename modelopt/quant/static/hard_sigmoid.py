"""HardSigmoid in int8, as an addition: onnxruntime has an integer kernel for Add and none for HardSigmoid.

HardSigmoid(x) is max(0, min(1, alpha · x + beta)), and QuantizeLinear cuts off below and above as max and min do. So an
addition whose result is quantized with the right scale and zero point makes the integers of HardSigmoid. With 0 to 1 as
the n = 255 steps of an 8-bit type whose lowest number is l:

    HardSigmoid(x) = (q - l) / n,    q = QuantizeLinear(x + c; scale s, zero point z)
    s = 1 / (n · alpha),    z = l + round(n · beta),    c = s · (n · beta - round(n · beta))

HardSwish, x · HardSigmoid(x), thus takes two integer kernels, an addition and a product.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import node_filters
from modelopt.quant.static import existing_qdq, scalar_operands

_ALPHA, _BETA = 0.2, 0.5  # the operator's defaults
_SWISH_ALPHA, _SWISH_BETA = 1 / 6, 0.5  # of HardSwish-14
_STEPS = 255
RANGE = (0.0, 1.0)
"""The values of HardSigmoid. Its activation gets this range, whatever the samples showed."""


def why_not(node: ir.Node) -> str | None:
    """Why a HardSigmoid cannot be an addition, else None."""
    alpha, beta = _factors(node)
    if not (alpha > 0 and 0 <= beta <= 1 and np.isfinite(np.float32(1 / alpha))):
        return f"its slope is {alpha:.4g} and its value at 0 is {beta:.4g}: int8 has them over 0, and from 0 to 1"
    return None


def without_hard_swish(model: ir.Model, exclude: tuple[str, ...] = ()) -> ir.Model:
    """The model with HardSwish as HardSigmoid and Mul, which onnxruntime makes of it as well.

    Args:
        model: It is not changed.
        exclude: Patterns of nodes to leave as they are (see `node_filters`).

    Returns:
        The model itself when it holds no such HardSwish, else a copy.
    """
    if not _hard_swishes(model, exclude):
        return model
    copy = model.clone()
    names = graph.NameSource(copy, nodes=True)
    for node in _hard_swishes(copy, exclude):
        x, made = node.inputs[0], node.outputs[0]
        attributes = [ir.AttrFloat32("alpha", _SWISH_ALPHA), ir.AttrFloat32("beta", _SWISH_BETA)]
        gate = ir.Node("", "HardSigmoid", [x], attributes, name=names(f"{node.name or 'HardSwish'}_gate"))
        gate.outputs[0].name = names(f"{made.name or 'HardSwish'}_gate")
        gate.outputs[0].type, gate.outputs[0].shape = made.type, made.shape
        node.prepend(gate)
        graph.become(node, "Mul", [x, gate.outputs[0]])
    return copy


def _hard_swishes(model: ir.Model, exclude: tuple[str, ...]) -> list[ir.Node]:
    return [
        node
        for scope in graph.with_bodies(model.graph)
        for node in scope
        if graph.is_standard(node, "HardSwish") and node_filters.why_left_out(node, (), exclude) is None
    ]


def rewrite(model: ir.Model) -> int:
    """Replace each HardSigmoid between DequantizeLinear and QuantizeLinear in `model`; returns how many."""
    names = graph.NameSource(model, nodes=True)
    count = 0
    for scope in graph.with_bodies(model.graph):
        for node in list(scope):
            if graph.is_standard(node, "HardSigmoid") and why_not(node) is None:
                count += _rewrite(model, node, names)
    return count


def _rewrite(model: ir.Model, node: ir.Node, names: graph.NameSource) -> bool:
    x = node.inputs[0]
    found = existing_qdq.quantize_behind(node, x)
    if found is None:
        return False
    quantize, written = found
    low = np.iinfo(written.grid.type.value).min
    if written.scale != np.float32(1 / _STEPS) or written.zero_point != low:
        return False
    alpha, beta = _factors(node)
    scale = np.float32(1 / (_STEPS * alpha))
    whole = round(_STEPS * beta)
    added = np.array(float(scale) * (_STEPS * beta - whole), np.float32)
    constant = scalar_operands.dequantized(model, node, added, written.grid.type.dtype, names)
    graph.become(node, "Add", [x, constant])
    name = node.outputs[0].name or "gate"
    zero = np.array(low + whole, written.grid.type.dtype)
    quantize.replace_input_with(1, graph.add_initializer(model.graph, names(f"{name}_sum_scale"), np.array(scale)))
    quantize.replace_input_with(2, graph.add_initializer(model.graph, names(f"{name}_sum_zero_point"), zero))
    return True


def _factors(node: ir.Node) -> tuple[float, float]:
    return graph.attribute_float(node, "alpha", _ALPHA), graph.attribute_float(node, "beta", _BETA)
