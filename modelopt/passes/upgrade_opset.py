"""Convert to a later opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError
from modelopt.graph import schemas
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass, option


@dataclass(frozen=True, kw_only=True)
class UpgradeOpset(Pass):
    """Convert to a later version of the standard operators, for what needs one.

    onnx's version converter does it, in the child process. A model of that version or a later one stays as it is: there
    is no way back. Refused are functions, Scan of opset 8, whatever the converter does not know, and a result that
    onnxruntime does not load although it loads the original. Operators of other domains stay.
    https://github.com/onnx/onnx/blob/main/docs/VersionConverter.md
    """

    effect: ClassVar[Effect] = Effect.EXACT

    version: int = option(17, "the opset to convert to")

    def check(self) -> None:
        """Refuse a version that onnx does not know."""
        newest = schemas.newest_opset()
        if self.version > newest:
            raise InputError(f"there is no opset {self.version}", note=f"the newest that onnx knows is {newest}")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Convert a copy and put it in the place of the graph.

        Raises:
            Refused: The converter fails, or would lose a part of the model.
        """
        old = graph.opset(model)
        if old >= self.version:
            return Changes(skipped=(Skip("model", f"it has opset {old} already"),))
        if old == 0:
            return Changes(skipped=(Skip("model", "it uses no standard operators"),))
        graph.replace_contents(model, upgraded(model, self.version, ctx.runner))
        return Changes(1, facts={"opset_before": old, "opset_after": self.version})
