"""Hand the model to onnxsim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.folding import MIN_GROWTH_BYTES
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import Refused
from modelopt.core.signature import Signature
from modelopt.passes.base import Pass, option


@dataclass(frozen=True, kw_only=True)
class Onnxsim(Pass):
    """Simplify with onnxsim, which folds and removes by its own rules.

    Its result takes the place of the model's graph and functions when it has fewer nodes. Folding without a limit can
    multiply a file, so a result that is much larger is refused. https://github.com/onnxsim/onnxsim
    """

    effect: ClassVar[Effect] = Effect.EXACT

    max_growth: float = option(0.10, "how much of its weights' bytes the model may grow by, or 8 KiB if that is more")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Run onnxsim in the limited child.

        Raises:
            Refused: onnxsim fails, or renames or retypes an input or output.
        """
        simplified = ctx.runner.simplify(model)
        removed = _node_count(model) - _node_count(simplified)
        if removed <= 0:
            return Changes()
        size_bytes = graph.weight_bytes(model)
        grown_bytes = graph.weight_bytes(simplified) - size_bytes
        if grown_bytes > max(MIN_GROWTH_BYTES, self.max_growth * size_bytes):
            reason = f"its result stores {grown_bytes} more bytes than the {size_bytes} of the model"
            return Changes(skipped=(Skip(model.graph.name or "graph", reason),))
        _restore_signature(simplified, model)
        graph.replace_contents(model, simplified)
        return Changes(removed, facts={"removed_nodes": removed, "grown_bytes": grown_bytes})


def _node_count(model: ir.Model) -> int:
    return sum(1 for _ in graph.all_nodes(model))


def _restore_signature(simplified: ir.Model, original: ir.Model) -> None:
    """Restore the declared shapes of inputs and outputs, which onnxsim overwrites with inferred ones."""
    before, after = graph.signature(original), graph.signature(simplified)
    if _names_and_types(after) != _names_and_types(before):
        raise Refused(
            "onnxsim changed the model's inputs or outputs",
            note=f"before: {before}, after: {after}",
            hint="leave out the pass onnxsim",
        )
    declared = {value.name: value for value in (*original.graph.inputs, *original.graph.outputs)}
    for value in (*simplified.graph.inputs, *simplified.graph.outputs):
        if value.name in declared:
            value.shape = declared[value.name].shape


def _names_and_types(signature: Signature) -> list[tuple[str, str]]:
    return [(spec.name, spec.dtype) for spec in signature.inputs + signature.outputs]
