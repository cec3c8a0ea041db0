"""Run the calibration samples and keep what the activations were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt.errors import InputError
from modelopt.passes.base import Context, Skip
from modelopt.quant.ranges import Collector

_MASK = 1e30  # masks are -3.4e38 or close to it; trained activations are nowhere near


@dataclass(frozen=True)
class Observations:
    """What the samples showed.

    Attributes:
        collectors: By value name; finite values were seen in each.
        skipped: The values that cannot be quantized, with the reason.
        samples: How many samples were run.
    """

    collectors: Mapping[str, Collector]
    skipped: tuple[Skip, ...]
    samples: int

    def elements(self, value: ir.Value) -> float:
        """How many elements an observed value had per sample."""
        return self.collectors[value.name or ""].finite / self.samples


def collect(model: ir.Model, names: Sequence[str], ctx: Context) -> Observations:
    """Observe values of the main graph over all calibration samples, in one pass and flat memory.

    Args:
        model: The float model; it is not changed.
        names: Names of values of the main graph.
        ctx: Lends the runner, the samples and the progress.

    Raises:
        InputError: There is no calibration data, or it is empty.
        Refused: onnxruntime does not load or run the model.
    """
    if ctx.calibration is None:
        raise InputError(
            "static quantization needs calibration data", hint="--calib data/ (or --mode dynamic, which needs none)"
        )
    collectors = {name: Collector() for name in names}
    not_float: dict[str, str] = {}
    samples = 0
    total = len(ctx.calibration)
    for arrays in ctx.runner.run(model, _feeds(ctx), outputs=list(names)):
        for name, array in zip(names, arrays, strict=True):
            if array.dtype == np.float32:
                collectors[name].observe(array)
            else:
                not_float[name] = f"is {array.dtype}, not float32"
        samples += 1
        ctx.progress("calibrating", samples, total)
    if samples == 0:
        raise InputError("the calibration data holds no sample", hint="--calib data/ with at least one sample")
    reasons = {name: not_float.get(name) or _why_not(collector) for name, collector in collectors.items()}
    return Observations(
        {name: collectors[name] for name, reason in reasons.items() if reason is None},
        tuple(Skip(name, reason) for name, reason in reasons.items() if reason is not None),
        samples,
    )


def _feeds(ctx: Context) -> Iterator[Mapping[str, np.ndarray]]:
    for sample in ctx.calibration or ():
        yield sample.feeds


def _why_not(collector: Collector) -> str | None:
    """Why a tensor with these values is not quantized; a clause whose subject is the tensor."""
    if collector.nan:
        return f"held {collector.nan} NaN in calibration"
    if collector.inf:
        return f"held {collector.inf} infinities in calibration"
    if collector.finite == 0:
        return "was empty in every calibration sample"
    if max(abs(collector.low), abs(collector.high)) > _MASK:
        return f"holds a mask: its range is [{collector.low:.3g}, {collector.high:.3g}]"
    return None
