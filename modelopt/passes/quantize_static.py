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
from modelopt.quant.correction.gptq_rounding import WeightRounding
from modelopt.quant.correction.repair import Repair
from modelopt.quant.numerics import sqnr, weight_range
from modelopt.quant.numerics.cost_model import static_costs
from modelopt.quant.numerics.range_methods import Method
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.quant.numerics.weight_range import WeightRange
from modelopt.quant.static import (
    first_convolution,
    gemm_scale,
    hard_sigmoid,
    io_types,
    qdq_writer,
    qoperator_writer,
    scalar_operands,
)
from modelopt.quant.static.activation_params import ActivationParams, ActivationType, activation_grid
from modelopt.quant.static.override_targets import ResolvedOverrides, resolve, settings_of
from modelopt.quant.static.overrides import Overrides, Setting, Type
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan, Role, SelectionRules
from modelopt.quant.static.plan_refinement import refine
from modelopt.quant.static.selection import mark, select, to_observe, why_already_quantized

_LEAST_OPSET = 13  # per-channel DequantizeLinear
_OPSET = 17
_WIDE_OPSET = 21  # QuantizeLinear of 16 bits
_IN_FLOAT = "is left in float by an override"
_NO_WIDE_KERNELS = (
    "onnxruntime computes with 16-bit activations in float: the model would be slower here "
    "(everywhere: true makes it for another runtime)"
)


class QuantFormat(Enum):
    """How integer arithmetic is written.

    Attributes:
        QDQ: Float operators between DequantizeLinear and QuantizeLinear, which runtimes fuse.
        QOPERATOR: QLinearConv and QLinearMatMul, where ONNX has such an operator.
    """

    QDQ = "qdq"
    QOPERATOR = "qoperator"


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(Pass):
    """Compute convolutions and matrix products in int8, with ranges measured on calibration data.

    Activations get one scale per tensor, weights one per output channel. Cheap operators between integer kernels become
    int8 as well. Activation functions such as hardswish, and squeeze-and-excite blocks, stay in float as a whole.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    needs_data: ClassVar[bool] = True

    activation: ActivationType = option(  # noqa: RUF009 - it is dataclasses.field
        ActivationType.AUTO,
        "integer type of activations: auto (by target), u8, s8; u16 or s16 for other runtimes' kernels",
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
    rounding: WeightRounding = option(  # noqa: RUF009 - it is dataclasses.field
        WeightRounding.NEAREST, "how weights become integers: nearest, or gptq (error feedback on calibration data)"
    )
    correct_bias: bool = option(default=False, text="correct biases by the mean error of each output channel")
    format: QuantFormat = option(  # noqa: RUF009 - it is dataclasses.field
        QuantFormat.QDQ,
        "qdq (Q/DQ around float operators) or qoperator (QLinearConv and QLinearMatMul; the rest stays qdq)",
    )
    integer_io: bool = option(
        default=False,
        text="inputs and outputs become integers where they are quantized; the metadata say with which scale",
    )
    include: tuple[str, ...] = option((), "only these kernels: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")
    override: Overrides | None = option(  # noqa: RUF009 - it is dataclasses.field
        None, "for single tensors: NAME: {type, scale, zero-point, range, min, max}; a node's name means its output"
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
        rules = self._rules(resolve(model, self._overrides), ctx)
        plan = select(model, rules)
        if not plan.choices:
            return Changes(skipped=plan.skipped)
        if ctx.calibration is None:
            raise InputError(
                "static quantization needs calibration data", hint="--calib data/ (or --mode dynamic, which needs none)"
            )
        # Conversion and renaming make a copy, so that a model in which nothing is quantized stays as it is.
        least, common = (_WIDE_OPSET, _WIDE_OPSET) if self._needs_wide_opset() else (_LEAST_OPSET, _OPSET)
        work = named_apart(model if graph.opset(model) >= least else upgraded(model, common, ctx.runner))
        if rules.integer_gates:
            work = hard_sigmoid.without_hard_swish(work, rules.exclude)
        overrides = resolve(work, self._overrides)
        if work is not model:
            rules = self._rules(overrides, ctx)
            plan = select(work, rules)
        seen = self._observe(work, plan, overrides, ctx)
        params = ActivationParams(seen, overrides, self._activation_grid(ctx), self.method, self.percentile)
        plan = refine(work, rules, params, None if self.everywhere else static_costs(ctx.target.kind))
        facts = self._facts(plan, seen, ctx)
        if not plan.choices:
            return Changes(0, plan.skipped, facts)
        written = self._write(work, plan, params, ctx)
        if work is not model:
            graph.replace_contents(model, work)
        mark(model, self.name)
        skipped = (*plan.skipped, *written.skipped)
        return Changes(len(plan.choices), skipped, {**facts, **written.facts}, written.tensors)

    def _observe(
        self, model: ir.Model, plan: QuantizationPlan, overrides: ResolvedOverrides, ctx: Context
    ) -> Observations:
        """The values of the plan's activations on the calibration samples."""
        names = to_observe(model, plan)
        if not names:
            return Observations({}, (), 0)
        # Extremes alone are counted faster, but a later pass that shares this calibration may need the histogram.
        bins = BINS if self.method.needs_histogram or ctx.calibrations is not None else 1
        settings = settings_of(qdq_writer.sources(plan), overrides)
        given_ranges = {source.name or "" for source, setting in settings.items() if setting.sets_range}
        return calibrate.collect(model, names, ctx, bins=bins, given_ranges=given_ranges)

    def _rules(self, overrides: ResolvedOverrides, ctx: Context) -> SelectionRules:
        """What the user asked for, of nodes and of tensors."""
        banned = {name: _IN_FLOAT for name, (setting, _) in overrides.tensors.items() if setting.type is Type.F32}
        patterns = dict.fromkeys(overrides.in_float.values())
        return SelectionRules(
            self.include,
            (*self.exclude, *patterns),
            banned=banned,
            integer_io=self.integer_io,
            integer_gates=ctx.target.kind not in ACCELERATORS and not self._is_wide(),
        )

    def _write(self, model: ir.Model, plan: QuantizationPlan, params: ActivationParams, ctx: Context) -> Changes:
        """Quantize `model` in place as the plan says."""
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
        writer = qdq_writer.QdqWriter(model, plan, chosen, rules)
        writer.write()
        hard_sigmoid.rewrite(model)
        scalar_operands.store(model)
        repaired = repair.run(model, rules, ctx)
        skipped, facts = [*unused, *repaired.skipped], dict(repaired.facts)
        if unused:
            facts["overrides_of_no_use"] = ", ".join(skip.node for skip in unused)
        if ctx.target.kind in {TargetKind.X86_VNNI, TargetKind.X86_AVX2}:
            facts["stems_regrouped"] = first_convolution.regroup(model)
        if ctx.target.kind is TargetKind.X86_AVX2 and not self._is_wide():
            saturating, counted = saturation_report.report(model, ctx)
            skipped, facts = [*skipped, *saturating], facts | counted
        if self.format is QuantFormat.QOPERATOR:
            written = qoperator_writer.convert(model)
            skipped += written.skipped
            facts["qoperators"] = written.rewrites
        if self.integer_io:
            converted = io_types.make_integer(model)
            skipped += converted.skipped
            facts |= {f"input {name}": str(affine) for name, affine in converted.io.inputs.items()}
            facts |= {f"output {name}": str(affine) for name, affine in converted.io.outputs.items()}
        return Changes(0, tuple(skipped), facts, (*tensors, *writer.errors))

    def _check_options(self) -> None:
        for name, setting in self._settings.items():
            if setting.type is Type.F16:
                raise InputError(
                    f"the override of '{name}' is f16, which this pass does not make",
                    hint=f"before it: - convert-half: {{include: ['{name}']}}, and here exclude: ['{name}']",
                )
        if not 0.0 < self.percentile <= 100.0:
            raise InputError(f"percentile is {self.percentile}", hint="a number over 0 and up to 100, such as 99.99")

    def _activation_grid(self, ctx: Context) -> Grid:
        types = {setting.type for setting in self._settings.values()}
        return activation_grid(self.activation, types, ctx.target.kind)

    @property
    def _settings(self) -> Mapping[str, Setting]:
        return self._overrides.settings

    @property
    def _overrides(self) -> Overrides:
        return self.override or Overrides()

    def _is_wide(self) -> bool:
        return self.activation in {ActivationType.U16, ActivationType.S16}

    def _needs_wide_opset(self) -> bool:
        return self._is_wide() or any(setting.type in {Type.U16, Type.S16} for setting in self._settings.values())

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

    def _facts(self, plan: QuantizationPlan, seen: Observations, ctx: Context) -> dict[str, str | int | float | bool]:
        kernels, looked_up = (sum(choice.role is role for choice in plan.choices) for role in (Role.KERNEL, Role.TABLE))
        activations = self._activation_grid(ctx)
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
            "activations": f"{activations.type.value} {activations.symmetry.value}",
            "weights": weight_range.description(
                self._weights(),
                per_channel=self.per_channel is not False,
                weight_range=self.weight_range,
                unsaturated=self._unsaturated(ctx),
            ),
            "method": self.method.value,
        }


def _feeds_batchnorm(choice: NodeChoice) -> bool:
    """Whether a BatchNormalization reads it: `fuse-conv-bn` would fold that, so that int8 kernels stay connected."""
    return any(graph.is_standard(use.node, "BatchNormalization") for use in choice.node.outputs[0].uses())
