"""See `QuantizeDynamic`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.core.targets import TargetKind
from modelopt.graph import node_filters
from modelopt.graph.operators import RECURRENT
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass, option
from modelopt.quant.dynamic import lstm, product_gain, products, qattention
from modelopt.quant.numerics import weight_range
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.quant.numerics.weight_range import WeightRange
from modelopt.quant.static import embedding_tables, float_regions, kernels, selection
from modelopt.quant.static.plan import NodeChoice

_OPSET = 17  # DynamicQuantizeLinear needs 11
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_NOT_ESTIMATED = frozenset({"Conv", "Gather"})
_COLUMNS_OPSET = 13  # DequantizeLinear with an axis
_CONTRIB_OPERATORS = (lstm.OPERATOR, "QAttention", "MultiHeadAttention")


@dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(Pass):
    """Store weights of matrix products and tables in int8 and quantize activations at run time; needs no data.

    LSTM become onnxruntime's DynamicQuantizeLSTM, and the projection in its Attention is computed in int8; only
    onnxruntime has these operators. Convolutions stay in float unless asked for: with ranges measured at run time they
    take four to eight times as long.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE

    per_channel: bool = option(default=True, text="one weight scale per output channel")
    reduce_range: bool | None = option(None, "keep weights to 7 bits; default: for x86 without VNNI as many as fit")
    conv: bool = option(default=False, text="convolutions as well: smaller, but much slower")
    everywhere: bool = option(default=False, text="also where int8 is estimated not to pay: smaller, slower")
    include: tuple[str, ...] = option((), "only these nodes: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node.
            Refused: The model's opset is below 11 and cannot be converted.
        """
        quantized = selection.why_already_quantized(model, self.name)
        if quantized:
            return Changes(skipped=(Skip("model", quantized),))
        node_filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        chosen, skipped = self._choose(model, ctx)
        if chosen and graph.opset(model) < 11:
            graph.replace_contents(model, upgraded(model, _OPSET, ctx.runner))
            chosen, skipped = self._choose(model, ctx)  # the same: the converter only rewrites what changed meaning
        unsaturated = ctx.target.kind is TargetKind.X86_AVX2 and self.reduce_range is None
        grid = Grid(IntType.S8, Symmetry.SYMMETRIC, bool(self.reduce_range))
        writer = products.DynamicWriter(model, grid, per_channel=self.per_channel, unsaturated=unsaturated)
        before = _contrib(model)
        for node in chosen:
            writer.rewrite(node)
        if chosen:
            graph.import_domain(model, graph.CONTRIB_DOMAIN, 1)
            selection.mark(model, self.name)
        facts: dict[str, Fact] = {
            "nodes_quantized": len(chosen),
            "nodes_kept_float": len(skipped),
            "target": str(ctx.target),
            "weights": weight_range.description(
                grid, per_channel=self.per_channel, weight_range=WeightRange.MAX, unsaturated=unsaturated
            ),
        }
        made = sorted(set(_contrib(model)) - set(before))
        return Changes(len(chosen), tuple(skipped), facts | ({"onnxruntime_only": ", ".join(made)} if made else {}))

    def _choose(self, model: ir.Model, ctx: Context) -> tuple[list[ir.Node], list[Skip]]:
        reasons: dict[ir.Node, str | None] = {}
        before_log = float_regions.before_logarithm(model)
        in_functions = {node for scope, _, inside in graph.scopes(model) if inside for node in scope}
        for node in graph.all_nodes(model):
            standard = node.domain in graph.STANDARD_DOMAINS
            table = embedding_tables.candidate(node)
            if table is not None:
                reasons[node] = self._why_not_looked_up(node, table, graph.opset(model))
            elif qattention.is_attention(node) or (standard and node.op_type in _PRODUCTS | RECURRENT):
                reasons[node] = selection.BEFORE_LOG if node in before_log else self._why_not(node)
            else:
                continue
            if reasons[node] is None and node in in_functions:
                reasons[node] = "inside a function, which cannot hold an int8 initializer"
        candidates = [node for node, reason in reasons.items() if reason is None and node.op_type not in _NOT_ESTIMATED]
        if candidates and not self.everywhere:
            with inferred(model, bind(graph.signature(model), {}), ctx.runner):
                reasons |= product_gain.refused(candidates, ctx.target.kind)
        return (
            [node for node, reason in reasons.items() if reason is None],
            [Skip(graph.label(node), reason) for node, reason in reasons.items() if reason is not None],
        )

    def _why_not_looked_up(self, node: ir.Node, verdict: NodeChoice | str, opset: int) -> str | None:
        if isinstance(verdict, str) or verdict.weight is None:
            return str(verdict)
        if opset < _COLUMNS_OPSET:
            return f"opset {opset} cannot dequantize by columns: upgrade-opset first"
        if any(not graph.is_standard(use.node, "Gather") or use.idx != 0 for use in verdict.weight.uses()):
            return "other nodes read its table in float"
        return node_filters.why_left_out(node, self.include, self.exclude)

    def _why_not(self, node: ir.Node) -> str | None:
        left_out = node_filters.why_left_out(node, self.include, self.exclude)
        if left_out is not None:
            return left_out
        if node.op_type in RECURRENT:
            return lstm.why_not(node)
        if qattention.is_attention(node):
            return qattention.why_not(node)
        if node.op_type == "Conv" and not self.conv:
            return "a convolution with ranges measured at run time is estimated not to pay (conv: true does it anyway)"
        return kernels.why_not(node)


def _contrib(model: ir.Model) -> list[str]:
    return [node.op_type for node in graph.all_nodes(model) if node.op_type in _CONTRIB_OPERATORS]
