"""See `QuantizeStatic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration import bincount, calibrate
from modelopt.calibration.calibrate import Observations
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import BINS
from modelopt.calibration.subgraph_outputs import named_apart
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError
from modelopt.core.targets import ACCELERATORS, TargetKind
from modelopt.graph import node_filters
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass, option
from modelopt.quant.correction import saturation_report
from modelopt.quant.correction.gptq_rounding import Rounding
from modelopt.quant.correction.repair import Repair
from modelopt.quant.numerics import sqnr
from modelopt.quant.numerics.cost_model import static_costs
from modelopt.quant.numerics.range_methods import Method
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.quant.numerics.weight_range import WeightRange
from modelopt.quant.static import (
    first_convolution,
    gemm_scale,
    integer_operators,
    io_types,
    qdq_writer,
    qoperator_writer,
    region_gain,
)
from modelopt.quant.static.activation_params import ActivationParams
from modelopt.quant.static.override_targets import Resolved, resolve, settings_of
from modelopt.quant.static.overrides import Overrides, Setting, Type
from modelopt.quant.static.plan import Choice, Plan, Role, Rules
from modelopt.quant.static.selection import mark, select, to_observe, why_already_quantized

_LEAST_OPSET = 13  # per-channel DequantizeLinear
_OPSET = 17
_WIDE_OPSET = 21  # QuantizeLinear of 16 bits
_WIDE = frozenset({Type.U16, Type.S16})
_IN_FLOAT = "is left in float by an override"
_NO_WIDE_KERNELS = (
    "onnxruntime computes with 16-bit activations in float: the model would be slower here "
    "(everywhere: true makes it for another runtime)"
)


class Activation(Enum):
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


class Form(Enum):
    """How integer arithmetic is written.

    Attributes:
        QDQ: Float operators between QuantizeLinear and DequantizeLinear, which runtimes fuse.
        QOPERATOR: QLinearConv and QLinearMatMul, where ONNX has such an operator.
    """

    QDQ = "qdq"
    QOPERATOR = "qoperator"


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(Pass):
    """Compute convolutions and matrix products in int8, with ranges measured on calibration data.

    Activations keep one scale per tensor, weights one per output channel. What is cheap and sits between integer
    kernels follows them into int8; activations such as hardswish and squeeze-and-excite blocks stay whole in float.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    needs_data: ClassVar[bool] = True

    activation: Activation = option(  # noqa: RUF009 - it is dataclasses.field
        Activation.AUTO, "integer type of activations: auto (by target), u8, s8; u16 or s16 for other runtimes' kernels"
    )
    per_channel: bool | None = option(None, "one weight scale per output channel; default: yes")
    method: Method = option(  # noqa: RUF009 - it is dataclasses.field
        Method.PERCENTILE, "how ranges are chosen: minmax, moving-average, percentile, entropy or mse"
    )
    percentile: float = option(99.99, "for method percentile: how much of the values to keep, in percent")
    weight_range: WeightRange = option(  # noqa: RUF009 - it is dataclasses.field
        WeightRange.MAX, "range of weights: max (their extremes) or mse (the least squared error, by search)"
    )
    reduce_range: bool | None = option(None, "keep weights to 7 bits; default: for x86 without VNNI as many as fit")
    everywhere: bool = option(default=False, text="also where int8 is estimated not to pay: smaller, slower")
    rounding: Rounding = option(  # noqa: RUF009 - it is dataclasses.field
        Rounding.NEAREST, "how weights become integers: nearest, or gptq (error feedback on calibration data)"
    )
    correct_bias: bool = option(default=False, text="take the mean error of each output channel off its bias")
    format: Form = option(  # noqa: RUF009 - it is dataclasses.field
        Form.QDQ, "qdq (Q/DQ around float operators) or qoperator (QLinearConv and QLinearMatMul; the rest stays qdq)"
    )
    integer_io: bool = option(
        default=False, text="inputs and outputs of the model are integers where they are quantized; metadata say how"
    )
    include: tuple[str, ...] = option((), "only these kernels: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")
    override: Overrides | None = option(  # noqa: RUF009 - it is dataclasses.field
        None, "what single tensors get: NAME: {type, scale, zero-point, range, min, max}; a node: what it makes"
    )

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: There is no calibration data, or an option makes no sense.
            Refused: The model's opset is below 13 and cannot be converted, or onnxruntime does not run the model.
        """
        self._check_options()
        quantized = why_already_quantized(model, self.name)
        if quantized:
            return Changes(skipped=(Skip("model", quantized),))
        if self._is_wide() and not self.everywhere:
            return Changes(skipped=(Skip("model", _NO_WIDE_KERNELS),))
        node_filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        rules = self._rules(resolve(model, self._overrides))
        plan = select(model, rules)
        if not plan.choices:
            return Changes(skipped=plan.skipped)
        if ctx.calibration is None:
            raise InputError(
                "static quantization needs calibration data", hint="--calib data/ (or --mode dynamic, which needs none)"
            )
        # A copy: the model must stay untouched when nothing turns out to be worth it.
        wide = self._is_wide() or any(one.type in _WIDE for one in self._settings.values())
        least, common = (_WIDE_OPSET, _WIDE_OPSET) if wide else (_LEAST_OPSET, _OPSET)
        work = named_apart(model if graph.opset(model) >= least else upgraded(model, common, ctx.runner))
        said = resolve(work, self._overrides)
        if work is not model:
            rules = self._rules(said)
            plan = select(work, rules)
        names = to_observe(work, plan)
        # What others may ask for as well is worth more than the shorter run.
        bins = BINS if self.method.needs_histogram or ctx.calibrations is not None else 1
        told = {
            source.name or "" for source, one in settings_of(qdq_writer.sources(plan), said).items() if one.says_range
        }
        seen = calibrate.collect(work, names, ctx, bins=bins, told=told) if names else Observations({}, (), 0)
        params = ActivationParams(seen, said, self._activations(ctx), self.method, self.percentile)
        plan = self._settle(work, rules, params, ctx)
        facts = self._facts(plan, seen, ctx)
        if not plan.choices:
            return Changes(0, plan.skipped, facts)
        written = self._write(work, plan, params, ctx)
        if work is not model:
            graph.replace_contents(model, work)
        mark(model, self.name)
        skipped = (*plan.skipped, *written.skipped)
        return Changes(len(plan.choices), skipped, {**facts, **written.facts}, written.tensors)

    def _rules(self, said: Resolved) -> Rules:
        """What the user asked for, of nodes and of tensors."""
        banned = {name: _IN_FLOAT for name, (setting, _) in said.tensors.items() if setting.type is Type.F32}
        patterns = dict.fromkeys(said.in_float.values())
        return Rules(self.include, (*self.exclude, *patterns), banned=banned, integer_io=self.integer_io)

    def _write(self, model: ir.Model, plan: Plan, params: ActivationParams, ctx: Context) -> Changes:
        """Put the plan into `model`, changed in place."""
        seen, unused = params.seen, params.unused(plan)
        plan = gemm_scale.unscaled(model, plan)
        rules = replace(self._constants(ctx), settings=params.of_weights(plan))
        repair = Repair.before(model, plan, self.rounding, correct_bias=self.correct_bias)
        chosen = params.of_plan(plan)
        tensors = [
            sqnr.of_activation(name, seen.collectors[name].histogram(), one)
            for name, one in chosen.items()
            if name in seen.collectors
        ]
        writer = qdq_writer.Writer(model, plan, chosen, rules)
        writer.write()
        repaired = repair.run(model, rules, ctx)
        skipped, facts = [*unused, *repaired.skipped], dict(repaired.facts)
        if unused:
            facts["overrides_of_no_use"] = ", ".join(skip.node for skip in unused)
        if ctx.target.kind in {TargetKind.X86_VNNI, TargetKind.X86_AVX2}:
            facts["stems_regrouped"] = first_convolution.regroup(model)
        if ctx.target.kind is TargetKind.X86_AVX2 and not self._is_wide():
            risks, counted = saturation_report.report(model, ctx)
            skipped, facts = [*skipped, *risks], facts | counted
        if self.format is Form.QOPERATOR:
            written = qoperator_writer.convert(model)
            skipped += written.skipped
            facts["qoperators"] = written.nodes
        if self.integer_io:
            taken = io_types.take_away(model)
            skipped += taken.skipped
            facts |= {f"input {name}": str(affine) for name, affine in taken.io.inputs.items()}
            facts |= {f"output {name}": str(affine) for name, affine in taken.io.outputs.items()}
        return Changes(0, tuple(skipped), facts, (*tensors, *writer.errors))

    def _settle(self, model: ir.Model, rules: Rules, params: ActivationParams, ctx: Context) -> Plan:
        """The plan for what the samples showed, less what does not pay; dropping a kernel may undo its neighbours."""
        seen = params.seen
        rules = replace(rules, banned={skip.node: skip.reason for skip in seen.skipped} | dict(rules.banned))
        plan = select(model, rules)
        sources, chosen = qdq_writer.sources(plan), params.of_plan(plan)
        unfit = integer_operators.unfit(plan, lambda value: float(chosen[sources[value].name or ""].scale))
        if unfit:
            rules = replace(rules, unfit=unfit)
            plan = select(model, rules)
        costs = None if self.everywhere else static_costs(ctx.target.kind)
        while costs is not None:
            losing = region_gain.unprofitable(plan, seen.elements, costs, seen.executions)
            if not losing:
                break
            rules = replace(rules, unprofitable=rules.unprofitable | losing)
            plan = select(model, rules)
        return plan

    def _check_options(self) -> None:
        for name, setting in self._settings.items():
            if setting.type is Type.F16:
                raise InputError(
                    f"the override of '{name}' is f16, which this pass does not make",
                    hint=f"before it: - convert-half: {{include: ['{name}']}}, and here exclude: ['{name}']",
                )
        if not 0.0 < self.percentile <= 100.0:
            raise InputError(f"percentile is {self.percentile}", hint="a number over 0 and up to 100, such as 99.99")

    def _activations(self, ctx: Context) -> Grid:
        symmetric = ctx.target.kind in ACCELERATORS
        signed = symmetric or ctx.target.kind is TargetKind.ARM64
        if self.activation is not Activation.AUTO:
            signed = self.activation in {Activation.S8, Activation.S16}
        wide = self._is_wide()
        told = {one.type for one in self._settings.values()} - {None, Type.F32, Type.S8}
        if symmetric and (wide or not signed or told):
            raise InputError(
                f"{ctx.target.kind.value} computes with 8-bit signed activations only",
                hint="activation: s8 or auto, and no other type in an override",
            )
        kinds = (IntType.U16, IntType.S16) if wide else (IntType.U8, IntType.S8)
        return Grid(kinds[signed], Symmetry.SYMMETRIC if symmetric else Symmetry.ASYMMETRIC)

    @property
    def _settings(self) -> Mapping[str, Setting]:
        return self._overrides.settings

    @property
    def _overrides(self) -> Overrides:
        return self.override or Overrides()

    def _is_wide(self) -> bool:
        return self.activation in {Activation.U16, Activation.S16}

    def _weights(self) -> Grid:
        return Grid(IntType.S8, Symmetry.SYMMETRIC, bool(self.reduce_range))

    def _unsaturated(self, ctx: Context) -> bool:
        return ctx.target.kind is TargetKind.X86_AVX2 and self.reduce_range is None and not self._is_wide()

    def _constants(self, ctx: Context) -> qdq_writer.ConstantRules:
        return qdq_writer.ConstantRules(
            weights=self._weights(),
            per_channel=self.per_channel is not False,
            integer_bias=ctx.target.kind is not TargetKind.TENSORRT,
            unsaturated=self._unsaturated(ctx),
            weight_range=self.weight_range,
        )

    def _facts(self, plan: Plan, seen: Observations, ctx: Context) -> dict[str, str | int | float | bool]:
        kernels, looked_up = (sum(choice.role is role for choice in plan.choices) for role in (Role.KERNEL, Role.TABLE))
        weights = self._weights()
        return {
            "kernels_quantized": kernels,
            "tables_quantized": looked_up,
            "neighbours_quantized": len(plan.choices) - kernels - looked_up,
            "nodes_kept_float": len(plan.skipped),
            "tensors_skipped": len(seen.skipped),
            "batchnorms_between": sum(_feeds_batchnorm(choice) for choice in plan.choices),
            "samples": seen.samples,
            **({} if seen.peak_bytes is None else {"calibration_peak_bytes": seen.peak_bytes}),
            **({} if bincount.kind() == "C" else {"counted_in": "numpy: installation found no C compiler"}),
            "target": str(ctx.target),
            "activations": f"{self._activations(ctx).type.value} {self._activations(ctx).symmetry.value}",
            "weights": f"{weights.type.value} {'per tensor' if self.per_channel is False else 'per channel'}"
            + (", 7 bits" if weights.reduced else "")
            + (", mse" if self.weight_range is WeightRange.MSE else "")
            + (", scaled so that no 16-bit sum saturates" if self._unsaturated(ctx) else ""),
            "method": self.method.value,
        }


def _feeds_batchnorm(choice: Choice) -> bool:
    """Whether a BatchNormalization that `fuse-conv-bn` would fold stands between this kernel and the next."""
    return any(graph.is_standard(use.node, "BatchNormalization") for use in choice.node.outputs[0].uses())
