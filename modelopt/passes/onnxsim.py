"""Hand the model to onnxsim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.errors import Refused
from modelopt.passes.base import Changes, Context, Effect, Pass


@dataclass(frozen=True, kw_only=True)
class Onnxsim(Pass):
    """Simplify with onnxsim, which folds and removes by its own rules.

    The result takes the place of the model's graph and functions when it has fewer nodes; what onnxsim does besides is
    not worth a change of every name. https://github.com/onnxsim/onnxsim
    """

    name: ClassVar[str] = "onnxsim"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Run onnxsim in the limited child.

        Raises:
            Refused: onnxsim fails, or gives a model with another signature.
        """
        before = sum(1 for _ in graph.all_nodes(model))
        simplified = ctx.runner.simplify(model)
        after = sum(1 for _ in graph.all_nodes(simplified))
        if after >= before:
            return Changes()
        if graph.signature(simplified) != graph.signature(model):
            raise Refused(
                "onnxsim changed the model's inputs or outputs",
                note=f"before: {graph.signature(model)}, after: {graph.signature(simplified)}",
                hint="leave out the pass onnxsim",
            )
        graph.replace_contents(model, simplified)
        return Changes(before - after, facts={"removed_nodes": before - after})
