"""See `QuantizeDynamic`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.passes._opset import upgraded
from modelopt.passes.base import Changes, Context, Effect, Pass, Skip, option
from modelopt.quant import dynamic, filters, gates, kernels, select
from modelopt.quant.scheme import Grid, IntType, Symmetry
from modelopt.runtime.cpu import TargetKind

_OPSET = 17  # DynamicQuantizeLinear needs 11
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(Pass):
    """Store weights of matrix products in int8 and quantize their activations at run time; needs no data.

    Convolutions stay in float unless asked for: with ranges measured at run time they take four to eight times as long.
    """

    name: ClassVar[str] = "quantize-dynamic"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    per_channel: bool = option(default=True, text="one weight scale per output channel")
    reduce_range: bool | None = option(None, "keep weights to 7 bits; default: only for x86 without VNNI")
    conv: bool = option(default=False, text="convolutions as well: smaller, but much slower")
    include: tuple[str, ...] = option((), "only these nodes: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node.
            Refused: The model's opset is below 11 and cannot be converted.
        """
        quantized = select.why_already_quantized(model)
        if quantized:
            return Changes(skipped=(Skip("model", quantized),))
        filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        chosen, skipped = self._choose(model)
        if chosen and graph.opset(model) < 11:
            graph.replace_contents(model, upgraded(model, _OPSET, ctx.runner))
            chosen, skipped = self._choose(model)  # the same nodes: the converter only rewrites what changed meaning
        reduced = ctx.target.kind is TargetKind.X86_AVX2 if self.reduce_range is None else self.reduce_range
        writer = dynamic.Writer(model, Grid(IntType.S8, Symmetry.SYMMETRIC, reduced), per_channel=self.per_channel)
        for node in chosen:
            writer.rewrite(node)
        return Changes(
            len(chosen),
            tuple(skipped),
            {
                "nodes_quantized": len(chosen),
                "nodes_kept_float": len(skipped),
                "target": str(ctx.target),
                "weights": f"int8 {'per channel' if self.per_channel else 'per tensor'}{', 7 bits' if reduced else ''}",
            },
        )

    def _choose(self, model: ir.Model) -> tuple[list[ir.Node], list[Skip]]:
        chosen: list[ir.Node] = []
        skipped: list[Skip] = []
        before_log = gates.before_logarithm(model)
        in_functions = {node for scope, _, inside in graph.scopes(model) if inside for node in scope}
        for node in graph.all_nodes(model):
            if node.op_type not in kernels.KERNELS | _RECURRENT or node.domain not in graph.STANDARD_DOMAINS:
                continue
            reason = select.BEFORE_LOG if node in before_log else self._why_not(node)
            if reason is None and node in in_functions:
                reason = "inside a function, which cannot hold an int8 initializer"
            if reason is None:
                chosen.append(node)
            else:
                skipped.append(Skip(graph.label(node), reason))
        return chosen, skipped

    def _why_not(self, node: ir.Node) -> str | None:
        if node.op_type in _RECURRENT:
            return "recurrent operators stay in float"
        if self.include and not any(filters.names_node(pattern, node) for pattern in self.include):
            return "not included"
        if any(filters.names_node(pattern, node) for pattern in self.exclude):
            return "excluded"
        if node.op_type == "Conv" and not self.conv:
            return "a convolution with ranges measured at run time is slower than float (conv: true does it anyway)"
        return kernels.why_not(node)
