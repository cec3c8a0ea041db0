"""The integer types, scales and zero points of activations: given by overrides, else computed from observed ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.calibrate import Observations
from modelopt.core.changes import Skip
from modelopt.core.errors import InputError
from modelopt.core.targets import ACCELERATORS, TargetKind
from modelopt.quant.numerics.range_methods import Method, choose_range
from modelopt.quant.numerics.scheme import Grid, IntType, QParams, Symmetry, params_from_range
from modelopt.quant.static import existing_qdq, hard_sigmoid, qdq_writer
from modelopt.quant.static.override_targets import ResolvedOverrides, settings_of
from modelopt.quant.static.overrides import Setting, Type
from modelopt.quant.static.plan import QuantizationPlan

_UNUSED = "its override is of no use: nothing there is quantized"


class ActivationType(Enum):
    """The integer type of activations.

    Attributes:
        AUTO: What the target's integer instructions take.
        U8: Unsigned, any zero point.
        S8: Signed.
        U16: As u8, for runtimes with 16-bit kernels; onnxruntime's CPU computes with them in float.
        S16: As s8, likewise.
    """

    AUTO = "auto"
    U8 = "u8"
    S8 = "s8"
    U16 = "u16"
    S16 = "s16"


def activation_grid(asked: ActivationType, override_types: Iterable[Type | None], kind: TargetKind) -> Grid:
    """The integers of activations on a target.

    Args:
        asked: What the user asked for.
        override_types: The types of single tensors.
        kind: The target.

    Raises:
        InputError: The target does not compute with what is asked for.
    """
    symmetric = kind in ACCELERATORS
    signed = symmetric or kind is TargetKind.ARM64
    if asked is not ActivationType.AUTO:
        signed = asked in {ActivationType.S8, ActivationType.S16}
    wide = asked in {ActivationType.U16, ActivationType.S16}
    if symmetric and (wide or not signed or set(override_types) - {None, Type.F32, Type.S8}):
        raise InputError(
            f"{kind.value} computes with 8-bit signed activations only",
            hint="activation: s8 or auto, and no other type in an override",
        )
    types = (IntType.U16, IntType.S16) if wide else (IntType.U8, IntType.S8)
    return Grid(types[signed], Symmetry.SYMMETRIC if symmetric else Symmetry.ASYMMETRIC)


@dataclass(frozen=True)
class ActivationParams:
    """How the activations of one model are quantized.

    Attributes:
        seen: What the samples showed.
        overrides: What the user gave for single tensors.
        grid: The integers of activations without an override of their type.
        method: How ranges are chosen.
        percentile: See `choose_range`.
    """

    seen: Observations
    overrides: ResolvedOverrides
    grid: Grid
    method: Method
    percentile: float

    def of_plan(self, plan: QuantizationPlan) -> Mapping[str, QParams]:
        """The parameters of each source activation (see `qdq_writer.sources`), by name.

        Raises:
            InputError: The override of an activation is impossible, or contradicts another.
        """
        sources = qdq_writer.sources(plan)
        settings = settings_of(sources, self.overrides)
        return {source.name or "": self._of(source, settings.get(source)) for source in dict.fromkeys(sources.values())}

    def _of(self, source: ir.Value, setting: Setting | None) -> QParams:
        found = existing_qdq.params_of(source)
        if found is not None:
            return found
        name = source.name or ""
        grid = self.grid if setting is None else setting.grid(self.grid)
        producer = source.producer()
        if producer is not None and graph.is_standard(producer, "HardSigmoid"):
            low, high = hard_sigmoid.RANGE
        else:
            low, high = choose_range(self.seen.collectors[name].histogram(), self.method, grid, self.percentile)
        return params_from_range(low, high, grid) if setting is None else setting.params(name, self.grid, low, high)

    def of_weights(self, plan: QuantizationPlan) -> Mapping[str, Setting]:
        """The overrides of weights, by name.

        Raises:
            InputError: A weight would get a type that it cannot have.
        """
        weights = dict.fromkeys(choice.weight for choice in plan.choices if choice.weight is not None)
        found = {weight.name or "": setting for weight in weights if (setting := self.overrides.of(weight)) is not None}
        for name, setting in found.items():
            if setting.type not in {None, Type.S8}:
                hint = f"--override '{name}: {{type: f32}}' leaves it in float"
                raise InputError(f"the weight '{name}' can be s8 or f32 only", hint=hint)
        return found

    def unused(self, plan: QuantizationPlan) -> list[Skip]:
        """The overrides of tensors that the plan does not quantize."""
        sources = qdq_writer.sources(plan)
        taken = {value.name for value, source in sources.items() if existing_qdq.params_of(source) is None}
        taken |= {choice.weight.name for choice in plan.choices if choice.weight is not None}
        used = {name for tensor, (_, name) in self.overrides.tensors.items() if tensor in taken}
        return [Skip(name, _UNUSED) for name in self.overrides.wanted if name not in used]
