"""Weights that are also inputs become constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.passes.base import Pass, option

_FIRST_IR_THAT_OVERRIDES = 4


@dataclass(frozen=True, kw_only=True)
class FreezeWeights(Pass):
    """Make initializers that are also inputs constants, so that they can be folded, fused and quantized.

    Before IR version 4 every initializer had to be an input, and runtimes take it for a constant all the same. Since
    then it means that a caller may replace it, and with `every` no caller may any more.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    every: bool = option(default=False, text="also where a caller may replace them: IR version 4 and later")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Take them off the inputs; files older than IR version 4 become that."""
        both = [value for value in model.graph.inputs if value.const_value is not None]
        if not self.every and model.ir_version >= _FIRST_IR_THAT_OVERRIDES:
            reason = "a caller may replace it, for it is an input as well (every: true makes it a constant)"
            return Changes(skipped=tuple(Skip(value.name or "", reason) for value in both))
        for value in both:
            model.graph.inputs.remove(value)
        if both:
            graph.allow_plain_initializers(model)
        return Changes(len(both), facts={"weights_frozen": len(both)} if both else {})
