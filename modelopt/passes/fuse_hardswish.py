"""Rewrite the decomposed hardswish and hardsigmoid as HardSigmoid."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.hardswish import Hardswish, find
from modelopt.patterns.rewriter import Rewrite

_ALPHA = float(np.float32(1 / 6))


class FuseHardswish(RewritePass):
    """Rewrite the decomposed hardswish, x · clip(x + 3, 0, 6) / 6, as x · HardSigmoid(x).

    HardSigmoid-6 is ``max(0, min(1, alpha · x + beta))``; with ``alpha = 1/6`` and ``beta = 0.5`` that is
    ``clip(x + 3, 0, 6) / 6``. Exporters write the clip as Clip (bounds are attributes below opset 11, then inputs) or
    as Min and Relu, and divide by 6 (or multiply by 1/6) before or after the product with ``x``:

    - ``clip(x + 3) / 6`` becomes ``HardSigmoid(x)``;
    - ``(x · clip(x + 3)) / 6`` becomes ``x · HardSigmoid(x)``.

    The operator HardSwish (opset 14) is not used: onnxruntime expands it to this very pair, so it is no faster, and
    the pair works from opset 6. Exact up to the rounding of ``(x + 3) / 6`` against ``x / 6 + 0.5``.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the division by 6 that ends one of the two patterns."""
        pattern = find(node, opset)
        return pattern if isinstance(pattern, Mismatch) else partial(_rewrite, names, pattern)


def _rewrite(names: graph.NameSource, pattern: Hardswish) -> None:
    last, x = pattern.last, pattern.x
    attributes = (ir.AttrFloat32("alpha", _ALPHA), ir.AttrFloat32("beta", 0.5))
    if pattern.with_product:
        name = names(f"{x.name}_hardsigmoid")
        gate = ir.Value(name=name, shape=x.shape, type=x.type)
        last.prepend(ir.Node("", "HardSigmoid", [x], attributes, outputs=[gate], name=name))
        graph.become(last, "Mul", [x, gate])
    else:
        graph.become(last, "HardSigmoid", [x], attributes)
