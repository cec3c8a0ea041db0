"""Corrections that `quantize-static` makes after it has written the integers: GPTQ rounding, then bias correction."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Fact, Skip
from modelopt.quant.correction import bias_correction, kernel_pairs
from modelopt.quant.correction.gptq_rounding import WeightRounding, round_again
from modelopt.quant.static.plan import QuantizationPlan
from modelopt.quant.static.qdq_writer import ConstantRules

_UNSATURATED = "weights are scaled so that no 16-bit sum saturates, which other integers could undo"


@dataclass(frozen=True)
class Repair:
    """The corrections of one model; made before it is quantized, run afterwards.

    Attributes:
        reference: A copy of the float model; None where no correction is asked for.
        kernels: The kernels that will compute in int8.
        rounding: How weights become integers.
        correct_bias: Whether to correct biases.
    """

    reference: ir.Model | None
    kernels: tuple[kernel_pairs.KernelPair, ...]
    rounding: WeightRounding
    correct_bias: bool

    @classmethod
    def before(cls, model: ir.Model, plan: QuantizationPlan, rounding: WeightRounding, *, correct_bias: bool) -> Repair:
        """Keep a copy of the float model that `plan` will quantize."""
        if rounding is WeightRounding.NEAREST and not correct_bias:
            return cls(None, (), rounding, correct_bias)
        reference = model.clone()
        return cls(reference, tuple(kernel_pairs.pairs(reference, model, plan)), rounding, correct_bias)

    def run(self, model: ir.Model, rules: ConstantRules, ctx: Context) -> Changes:
        """Correct `model`, which is quantized now; biases last, for they also correct the error that rounding leaves.

        Raises:
            Refused: onnxruntime does not run the model.
        """
        skipped: tuple[Skip, ...] = ()
        facts: dict[str, Fact] = {}
        if self.reference is None:
            return Changes()
        if self.rounding is WeightRounding.GPTQ and rules.unsaturated:
            skipped = (Skip("model", _UNSATURATED),)
        elif self.rounding is WeightRounding.GPTQ:
            rounded = round_again(self.reference, self.kernels, rules.weights, ctx)
            skipped, facts["weights_rounded_again"] = rounded.skipped, rounded.rewrites
        if self.correct_bias:
            corrected = bias_correction.correct(
                self.reference, model, self.kernels, ctx, integer_bias=rules.integer_bias
            )
            skipped, facts["biases_corrected"] = (*skipped, *corrected.skipped), corrected.rewrites
        return Changes(0, skipped, facts)
