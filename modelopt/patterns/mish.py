"""Mish (Misra 2019) in parts: x · tanh(softplus(x))."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match


def find(last: ir.Node) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """``x`` and the nodes but for the product, when `last` is ``x · tanh(softplus(x))``."""
    if not graph.is_standard(last, "Mul"):
        return None
    for x, other in (tuple(last.inputs), tuple(reversed(last.inputs))):
        tanh = match.producer(other, "Tanh")
        softplus = None if tanh is None else match.producer(tanh.inputs[0], "Softplus")
        if x is not None and tanh is not None and softplus is not None and softplus.inputs[0] is x:
            return x, (tanh, softplus)
    return None
