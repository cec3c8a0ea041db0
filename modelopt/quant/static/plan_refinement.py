"""The plan after calibration: without the nodes that the observed ranges or the cost model speak against."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from modelopt.quant.numerics.cost_model import StaticCosts
from modelopt.quant.static import integer_operators, qdq_writer, region_gain
from modelopt.quant.static.activation_params import ActivationParams
from modelopt.quant.static.plan import QuantizationPlan, SelectionRules
from modelopt.quant.static.selection import select


def refine(
    model: ir.Model, rules: SelectionRules, params: ActivationParams, costs: StaticCosts | None
) -> QuantizationPlan:
    """Select again with what the samples showed.

    Args:
        model: The float model; it is not changed.
        rules: What the user asked for.
        params: How activations are quantized, with the observed ranges.
        costs: What kernels cost on the target; None to keep what is estimated to be slower in int8.
    """
    seen = params.seen
    # Tensors without a range (NaN, masks, never made) cannot be quantized.
    rules = replace(rules, banned={skip.node: skip.reason for skip in seen.skipped} | dict(rules.banned))
    plan = select(model, rules)
    # Operators whose result would change too much with the scale that their input gets.
    sources, chosen = qdq_writer.sources(plan), params.of_plan(plan)
    unfit = integer_operators.unfit(plan, lambda value: float(chosen[sources[value].name or ""].scale))
    if unfit:
        rules = replace(rules, unfit=unfit)
        plan = select(model, rules)
    # Kernels that lose time. Without them their neighbours may lose time as well, so the estimate is repeated.
    while costs is not None:
        losing = region_gain.unprofitable(plan, seen.elements, costs, seen.executions)
        if not losing:
            break
        rules = replace(rules, unprofitable=rules.unprofitable | losing)
        plan = select(model, rules)
    return plan
