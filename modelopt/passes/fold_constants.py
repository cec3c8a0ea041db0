"""Fold what is known before the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.consteval.folding import Folding
from modelopt.core.changes import Changes, Effect
from modelopt.passes.base import Pass, option


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Compute constant expressions, known shapes and constant branches once instead of at every run.

    All scopes are folded: the main graph, bodies of If, Loop and Scan, functions. A Loop that never turns goes. A chain
    of nodes is folded as one, so that only what the rest of the model reads is stored and counts as growth. Where a
    chain's result is too large to store, the largest part before it that is worth storing is. QuantizeLinear,
    DequantizeLinear and random operators stay, and so does whatever makes a graph output.

    Numbers follow the ONNX operator specification (https://onnx.ai/onnx/operators/); shapes declared in the model are
    trusted.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    max_tensor_bytes: int = option(16 * 2**20, "never read, compute or store a larger tensor while folding")
    max_growth: float = option(
        0.10, "how much of its weights' bytes the model may grow by, or 8 KiB if that is more; 0 forbids growth"
    )

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fold until nothing is left to fold."""
        return Folding(self.max_tensor_bytes, self.max_growth).apply(model, ctx.runner)
