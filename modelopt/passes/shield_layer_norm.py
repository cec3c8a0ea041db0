"""Write the Add before a layer normalization as Sum, which onnxruntime does not merge with it."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Skip
from modelopt.core.targets import ACCELERATORS
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns import normalization
from modelopt.patterns.rewriter import Rewrite

_FIRST_OPSET = 8  # Sum broadcasts


class ShieldLayerNorm(RewritePass):
    """Keep onnxruntime from merging Add and layer normalization into its slower SkipLayerNormalization.

    ``x + y`` is Sum(x, y) (Sum-8). On the CPU onnxruntime merges an Add that only a layer normalization reads with it,
    at load, into a kernel that takes five times as long as the two operators (measured with 1.32: 0.52 ms for 128 rows
    of 768, against 0.10 ms). It looks for Add alone. The normalization may be the operator or decomposed. On
    accelerators the merged kernel is the faster one, and the pass does nothing.
    """

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Rewrite every sum of two float32 activations that only a layer normalization reads."""
        if ctx.target.kind in ACCELERATORS:
            return Changes(skipped=(Skip("model", f"{ctx.target.kind.value} runs the merged kernel faster"),))
        return super().apply(model, ctx)

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the normalization, or ends a decomposed one."""
        x, readers = _normalized(node)
        add = match.producer(x, "Add")
        if x is None or add is None or any(graph.constant_tensor(value) is not None for value in add.inputs):
            return match.NOT_HERE
        if opset < _FIRST_OPSET:
            return Mismatch(f"opset {opset} has no Sum that broadcasts: upgrade-opset first")
        if ir.DataType.FLOAT not in {value.dtype for value in (x, *add.inputs) if value is not None}:
            return Mismatch("the sum is not float32, or its type is not known")
        if x.is_graph_output() or any(use.node not in readers for use in x.uses()):
            return match.NOT_HERE  # onnxruntime merges no sum that others need
        return partial(graph.become, add, "Sum", list(add.inputs))


def _normalized(node: ir.Node) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """What `node` normalizes, and the nodes that read it for that."""
    if graph.is_standard(node, "LayerNormalization"):
        return node.inputs[0], (node,)
    core = normalization.find(node)
    return (core.x, (core.last, *core.inner)) if core is not None and core.centered else (None, ())
