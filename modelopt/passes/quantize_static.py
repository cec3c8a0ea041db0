"""See `QuantizeStatic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.errors import InputError
from modelopt.passes._opset import upgraded
from modelopt.passes.base import Changes, Context, Effect, Pass, Skip, option
from modelopt.quant import calibrate, filters, qdq, worth
from modelopt.quant.calibrate import Observations
from modelopt.quant.methods import Method, choose_range
from modelopt.quant.plan import Choice, Plan, Role, Rules
from modelopt.quant.scheme import Grid, IntType, QParams, Symmetry, params_from_range
from modelopt.quant.select import select, why_already_quantized
from modelopt.runtime.cpu import TargetKind

_OPSET = 17  # per-channel DequantizeLinear needs 13


class Activation(Enum):
    """The integer type of activations.

    Attributes:
        AUTO: What the target's integer instructions take.
        U8: Unsigned, any zero point.
        S8: Signed.
    """

    AUTO = "auto"
    U8 = "u8"
    S8 = "s8"


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(Pass):
    """Compute convolutions and matrix products in int8, with ranges measured on calibration data.

    Activations keep one scale per tensor, weights one per output channel. What is cheap and sits between integer
    kernels follows them into int8; activations such as hardswish and squeeze-and-excite blocks stay whole in float.
    """

    name: ClassVar[str] = "quantize-static"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    needs_data: ClassVar[bool] = True

    activation: Activation = option(  # noqa: RUF009 - it is dataclasses.field
        Activation.AUTO, "integer type of activations: auto (by target), u8 or s8"
    )
    per_channel: bool | None = option(None, "one weight scale per output channel; default: yes")
    method: Method = option(  # noqa: RUF009 - it is dataclasses.field
        Method.PERCENTILE, "how ranges are chosen: minmax, percentile, entropy or mse"
    )
    percentile: float = option(99.99, "for method percentile: how much of the values to keep, in percent")
    reduce_range: bool | None = option(None, "keep weights to 7 bits; default: only for x86 without VNNI")
    everywhere: bool = option(default=False, text="also where int8 is estimated not to pay: smaller, slower")
    include: tuple[str, ...] = option((), "only these kernels: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: There is no calibration data, or an option makes no sense.
            Refused: The model's opset is below 13 and cannot be converted, or onnxruntime does not run the model.
        """
        self._check_options()
        quantized = why_already_quantized(model)
        if quantized:
            return Changes(skipped=(Skip("model", quantized),))
        filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        plan = select(model, Rules(self.include, self.exclude))
        if not plan.choices:
            return Changes(skipped=plan.skipped)
        if ctx.calibration is None:
            raise InputError(
                "static quantization needs calibration data", hint="--calib data/ (or --mode dynamic, which needs none)"
            )
        # A copy: the model must stay untouched when nothing turns out to be worth it.
        work = model if graph.opset(model) >= 13 else upgraded(model, _OPSET, ctx.runner)
        if work is not model:
            plan = select(work, Rules(self.include, self.exclude))
        names = sorted(value.name or "" for value in plan.activations())
        seen = calibrate.collect(work, names, ctx)
        plan = self._settle(work, seen, ctx)
        facts = self._facts(plan, seen, ctx)
        if plan.choices:
            rules = qdq.ConstantRules(self._weights(ctx), self.per_channel is not False, self._integer_bias(ctx))
            qdq.Writer(work, plan, self._params(plan, seen, ctx), rules).write()
            if work is not model:
                graph.replace_contents(model, work)
        return Changes(len(plan.choices), plan.skipped, facts)

    def _settle(self, model: ir.Model, seen: Observations, ctx: Context) -> Plan:
        """The plan for what the samples showed, less what does not pay; dropping a kernel may undo its neighbours."""
        rules = Rules(self.include, self.exclude, {skip.node: skip.reason for skip in seen.skipped})
        plan = select(model, rules)
        costs = None if self.everywhere else worth.costs_of(ctx.target.kind)
        while costs is not None:
            losing = worth.unprofitable(plan, seen.elements, costs)
            if not losing:
                break
            rules = replace(rules, unprofitable=rules.unprofitable | losing)
            plan = select(model, rules)
        return plan

    def _check_options(self) -> None:
        if not 0.0 < self.percentile <= 100.0:
            raise InputError(f"percentile is {self.percentile}", hint="a number over 0 and up to 100, such as 99.99")

    def _activations(self, ctx: Context) -> Grid:
        symmetric = ctx.target.kind in {TargetKind.TENSORRT, TargetKind.CUDA}
        signed = symmetric or ctx.target.kind is TargetKind.ARM64
        if self.activation is not Activation.AUTO:
            signed = self.activation is Activation.S8
        if symmetric and not signed:
            raise InputError(
                f"{ctx.target.kind.value} computes with signed activations only", hint="activation: s8, or auto"
            )
        return Grid(IntType.S8 if signed else IntType.U8, Symmetry.SYMMETRIC if symmetric else Symmetry.ASYMMETRIC)

    def _weights(self, ctx: Context) -> Grid:
        reduced = ctx.target.kind is TargetKind.X86_AVX2 if self.reduce_range is None else self.reduce_range
        return Grid(IntType.S8, Symmetry.SYMMETRIC, reduced)

    def _integer_bias(self, ctx: Context) -> bool:
        return ctx.target.kind is not TargetKind.TENSORRT

    def _params(self, plan: Plan, seen: Observations, ctx: Context) -> Mapping[str, QParams]:
        grid = self._activations(ctx)
        params = {}
        for source in qdq.sources(plan).values():
            name = source.name or ""
            low, high = choose_range(seen.collectors[name].histogram(), self.method, grid, self.percentile)
            params[name] = params_from_range(low, high, grid)
        return params

    def _facts(self, plan: Plan, seen: Observations, ctx: Context) -> dict[str, str | int | float | bool]:
        kernels = sum(choice.role is Role.KERNEL for choice in plan.choices)
        weights = self._weights(ctx)
        return {
            "kernels_quantized": kernels,
            "neighbours_quantized": len(plan.choices) - kernels,
            "nodes_kept_float": len(plan.skipped),
            "tensors_skipped": len(seen.skipped),
            "batchnorms_between": sum(_feeds_batchnorm(choice) for choice in plan.choices),
            "samples": seen.samples,
            "target": str(ctx.target),
            "activations": f"{self._activations(ctx).type.value} {self._activations(ctx).symmetry.value}",
            "weights": f"{weights.type.value} {'per tensor' if self.per_channel is False else 'per channel'}"
            + (", 7 bits" if weights.reduced else ""),
            "method": self.method.value,
        }


def _feeds_batchnorm(choice: Choice) -> bool:
    """Whether a BatchNormalization that `fuse-conv-bn` would fold stands between this kernel and the next."""
    return any(graph.is_standard(use.node, "BatchNormalization") for use in choice.node.outputs[0].uses())
