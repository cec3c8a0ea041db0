"""The scales and zero points of activations: what the user says of them, else what follows from what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from modelopt.calibration.calibrate import Observations
from modelopt.core.changes import Skip
from modelopt.core.errors import InputError
from modelopt.quant.numerics.range_methods import Method, choose_range
from modelopt.quant.numerics.scheme import Grid, QParams, params_from_range
from modelopt.quant.static import existing_qdq, qdq_writer
from modelopt.quant.static.override_targets import ResolvedOverrides, settings_of
from modelopt.quant.static.overrides import Setting, Type
from modelopt.quant.static.plan import QuantizationPlan

_UNUSED = "its override is of no use: nothing there is quantized"


@dataclass(frozen=True)
class ActivationParams:
    """How activations are quantized.

    Attributes:
        seen: What the samples showed.
        said: What the user says.
        grid: The integers of activations of which no type is said.
        method: How ranges are chosen.
        percentile: See `choose_range`.
    """

    seen: Observations
    said: ResolvedOverrides
    grid: Grid
    method: Method
    percentile: float

    def of_plan(self, plan: QuantizationPlan) -> Mapping[str, QParams]:
        """The parameters of each source activation (see `qdq.sources`), by name.

        Raises:
            InputError: What is said of an activation is impossible, or contradicts itself.
        """
        sources = qdq_writer.sources(plan)
        settings = settings_of(sources, self.said)
        return {source.name or "": self._of(source, settings.get(source)) for source in dict.fromkeys(sources.values())}

    def _of(self, source: ir.Value, setting: Setting | None) -> QParams:
        found = existing_qdq.params_of(source)
        if found is not None:
            return found
        name = source.name or ""
        grid = self.grid if setting is None else setting.grid(self.grid)
        low, high = choose_range(self.seen.collectors[name].histogram(), self.method, grid, self.percentile)
        return params_from_range(low, high, grid) if setting is None else setting.params(name, self.grid, low, high)

    def of_weights(self, plan: QuantizationPlan) -> Mapping[str, Setting]:
        """What the user says of weights, by name.

        Raises:
            InputError: A weight would get a type that it cannot have.
        """
        weights = dict.fromkeys(choice.weight for choice in plan.choices if choice.weight is not None)
        found = {weight.name or "": setting for weight in weights if (setting := self.said.of(weight)) is not None}
        for name, setting in found.items():
            if setting.type not in {None, Type.S8}:
                hint = f"--override '{name}: {{type: f32}}' leaves it in float"
                raise InputError(f"the weight '{name}' can be s8 or f32 only", hint=hint)
        return found

    def unused(self, plan: QuantizationPlan) -> list[Skip]:
        """The overrides that nothing in the plan takes."""
        sources = qdq_writer.sources(plan)
        taken = {value.name for value, source in sources.items() if existing_qdq.params_of(source) is None}
        taken |= {choice.weight.name for choice in plan.choices if choice.weight is not None}
        used = {name for tensor, (_, name) in self.said.tensors.items() if tensor in taken}
        return [Skip(name, _UNUSED) for name in self.said.wanted if name not in used]
