"""Convert to the opset that a fusion needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.core.plural import counted
from modelopt.graph.match import Mismatch, NeedsOpset
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass
from modelopt.passes.fuse_gelu import FuseGelu
from modelopt.passes.fuse_layer_norm import FuseLayerNorm
from modelopt.patterns.rewriter import Rewrite


class RaiseOpset(Pass):
    """Convert to the opset that a fusion needs, where there is something to fuse.

    LayerNormalization came with opset 17 and Gelu with opset 20: in an older model `fuse-layer-norm` and `fuse-gelu`
    find their patterns and may not fuse them. onnx's version converter makes a later model of it, as for
    `upgrade-opset`; it is kept where onnxruntime loads it and at least one pattern fuses then. Where that fails the
    next lower opset is tried, and else the model stays as it is. Mish (opset 18) and RMSNormalization (opset 23) are
    no reason to convert: onnxruntime's CPU provider runs neither faster than what it makes of their parts.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Look for what a later opset would fuse, and convert a copy."""
        old, skipped = graph.opset(model), list[Skip]()
        needed = [found.opset for found in _looked_at(model) if isinstance(found, NeedsOpset)]
        for version in sorted({opset for opset in needed if opset > old}, reverse=True):
            converted = _converted(model, version, ctx)
            if isinstance(converted, ModeloptError):
                reason = f"opset {version} for {_fusions(needed, version)}: {converted.note or converted.fact}"
                skipped.append(Skip("model", reason))
                continue
            fused = sum(not isinstance(found, Mismatch) for found in _looked_at(converted))
            if not fused:
                reason = f"opset {version} for {_fusions(needed, version)}: nothing fuses after the conversion"
                skipped.append(Skip("model", reason))
                continue
            graph.replace_contents(model, converted)
            facts = {"opset_before": old, "opset_after": version, "fusions": fused}
            return Changes(1, tuple(skipped), facts)
        return Changes(skipped=tuple(skipped))


def _looked_at(model: ir.Model) -> Iterator[Rewrite | Mismatch]:
    """What the fusions that need a later opset say of each node."""
    names = graph.NameSource(model)
    for node, opset in graph.nodes_with_opset(model):
        for fusion in (FuseLayerNorm(), FuseGelu()):
            yield fusion.rule(node, opset, names)


def _converted(model: ir.Model, version: int, ctx: Context) -> ir.Model | ModeloptError:
    try:
        return upgraded(model, version, ctx.runner)
    except (Refused, WorkerDied) as error:
        return error


def _fusions(needed: list[int], version: int) -> str:
    return counted(sum(opset <= version for opset in needed), "fusion")
