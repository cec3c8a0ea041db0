"""Gemm is alpha · A · B + beta · C. Integer kernels take no alpha and beta, so the constants B and C are scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan


def factors(node: ir.Node) -> tuple[float, float]:
    """alpha and beta of a Gemm; 1 and 1 of any other node."""
    if not graph.is_standard(node, "Gemm"):
        return 1.0, 1.0
    return graph.attribute_float(node, "alpha", 1.0), graph.attribute_float(node, "beta", 1.0)


def why_not_folded(node: ir.Node) -> str | None:
    """Why the constants of a Gemm cannot be scaled by alpha and beta, else None."""
    for factor, value, name in zip(factors(node), node.inputs[1:], ("alpha", "beta"), strict=False):
        array = graph.constant(value)
        if factor == 1.0 or array is None:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(_scaled(array, factor)).all():
                return f"{name} is {factor:g}, and its product with the constant overflows float32"
    return None


def unscaled(model: ir.Model, plan: QuantizationPlan) -> QuantizationPlan:
    """`plan` after the constants of its nodes are scaled by alpha and beta; `model` is changed in place."""
    names = graph.NameSource(model)
    choices = [choice if factors(choice.node) == (1.0, 1.0) else _fold(choice, names) for choice in plan.choices]
    return replace(plan, choices=tuple(choices))


def _fold(choice: NodeChoice, names: graph.NameSource) -> NodeChoice:
    node = choice.node
    alpha, beta = factors(node)
    weight, bias = (_constant(node, i, factor, names) for i, factor in ((1, alpha), (2, beta)))
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    return replace(choice, weight=weight, bias=bias)


def _constant(node: ir.Node, index: int, factor: float, names: graph.NameSource) -> ir.Value | None:
    """The constant at an input of `node`, `factor` times what it was."""
    old = graph.input_at(node, index)
    array = graph.constant(old)
    if old is None or array is None or factor == 1.0:
        return old
    new = graph.constant_beside(old, node, names(f"{old.name}_scaled"), _scaled(array, factor))
    node.replace_input_with(index, new)
    graph.drop_unused_constants([old])
    return new


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(array.astype(np.float64) * factor, np.float32)
