"""See `ConvertFloat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.passes.base import Pass, option
from modelopt.quant.float16 import widening


@dataclass(frozen=True, kw_only=True)
class ConvertFloat(Pass):
    """Compute and store in float32 what has weights in float16, bfloat16 or float64.

    Quantization to int8 needs float32. Weights in half precision stay the same numbers, and results are rounded less;
    float64 is rounded. A model is converted as a whole; only its inputs and outputs keep their types.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    prepares: ClassVar[bool] = True

    float16: bool = option(
        default=True, text="models in float16 too; else only weights that are stored in it and cast to float32"
    )

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`."""
        found = widening.weight_types(model)
        if not found:
            return Changes()
        types = found if self.float16 else found - {ir.DataType.FLOAT16}
        reason = widening.why_not(model, types)
        beyond = widening.is_beyond(model, types)
        if beyond is not None:
            reason = f"float32 does not hold the numbers of {beyond}"
        if reason is not None:
            return Changes(skipped=(Skip("model", reason),))
        before = graph.weight_bytes(model)
        writer = widening.Widener(model, types)
        writer.write()
        figures = writer.figures
        names = " and ".join(sorted(one.name.lower() for one in found))
        facts: dict[str, Fact] = {
            "from": names,
            "constants_float32": figures.constants,
            "casts": figures.casts,
            "weights_before_bytes": before,
            "weights_after_bytes": graph.weight_bytes(model),
        }
        rewrites = figures.nodes + figures.constants
        return Changes(rewrites, facts=facts if rewrites else {})
