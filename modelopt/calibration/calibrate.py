"""Runs the calibration samples and collects the values of activations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt.calibration import subgraph_outputs
from modelopt.calibration.cache import Seen, key_of
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import BINS, Collector
from modelopt.core.changes import Skip
from modelopt.core.errors import InputError
from modelopt.data import Dataset

MASK = 1e30
"""From this magnitude on a number is an attention mask, not an activation: masks are -3.4e38 or close to it."""


@dataclass(frozen=True)
class Observations:
    """What the samples showed.

    Attributes:
        collectors: By value name; finite values were seen in each.
        skipped: The values that cannot be quantized, with the reason.
        samples: How many samples were run.
        runs: By the name of a body's value, how often a sample executed the body; without values of the main graph.
        peak_bytes: The peak memory of the process that ran them; None where nothing had to be run.
    """

    collectors: Mapping[str, Collector]
    skipped: tuple[Skip, ...]
    samples: int
    runs: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None

    def elements(self, value: ir.Value) -> float:
        """How many elements an observed value had per sample, in all executions of its body."""
        return self.collectors[value.name or ""].finite / self.samples

    def executions(self, value: ir.Value) -> float:
        """How often an observed value was made per sample."""
        return self.runs.get(value.name or "", 1.0)


def collect(
    model: ir.Model, names: Sequence[str], ctx: Context, *, bins: int = BINS, given_ranges: Collection[str] = ()
) -> Observations:
    """Observe values over all calibration samples, in one pass and flat memory.

    What `ctx.calibrations` knows of this model on these data is not run again.

    Args:
        model: The float model; it is not changed.
        names: Names of values of the main graph and of If, Loop and Scan bodies (see `observe`).
        ctx: Lends the runner, the samples, earlier calibrations and the progress.
        bins: Of the histograms; 1 where extremes are enough, which is cheaper.
        given_ranges: The names of values whose range the user gives: masks and constants are accepted there.

    Raises:
        InputError: There is no calibration data, or it is empty.
        Refused: onnxruntime does not load or run the model.
    """
    if ctx.calibration is None:
        raise InputError(
            "static quantization needs calibration data", hint="--calib data/ (or --mode dynamic, which needs none)"
        )
    key = "" if ctx.calibrations is None else key_of(model, ctx.calibration)
    known = {} if ctx.calibrations is None else ctx.calibrations.known(key, bins)
    samples = 0 if ctx.calibrations is None else ctx.calibrations.samples(key)
    missing = [name for name in names if name not in known]
    peak_bytes = None
    if missing or not samples:
        made, samples, peak_bytes = _run(model, missing, ctx.calibration, ctx, bins)
        if ctx.calibrations is not None:
            ctx.calibrations.add(key, samples, made)
        known = {**known, **made}
    seen = {name: known[name] for name in names}
    reasons = {name: _why_not(one, has_given_range=name in given_ranges) for name, one in seen.items()}
    return Observations(
        {name: one.collector for name, one in seen.items() if one.collector is not None and reasons[name] is None},
        tuple(Skip(name, reason) for name, reason in reasons.items() if reason is not None),
        samples,
        {name: one.runs for name, one in seen.items() if one.runs is not None},
        peak_bytes,
    )


def _run(
    model: ir.Model, names: Sequence[str], data: Dataset, ctx: Context, bins: int
) -> tuple[dict[str, Seen], int, int | None]:
    """What was seen by name, the number of samples, and the child's peak memory."""
    shown = subgraph_outputs.expose(model, names)
    observed = ctx.runner.observe(shown.model, _feeds(data, ctx), shown.outputs, bins=bins)
    if observed.samples == 0:
        raise InputError("the calibration data holds no sample", hint="--calib data/ with at least one sample")
    seen: dict[str, Seen] = {}
    for name in names:
        if name in shown.hidden:
            seen[name] = Seen(None, shown.hidden[name])
            continue
        counter = shown.counters.get(name)
        runs = None if counter is None else observed.collectors[counter].finite / observed.samples
        other = observed.other.get(name)
        reason = None if other is None else f"is {other}, not float32"
        seen[name] = Seen(observed.collectors[name] if reason is None else None, reason, runs)
    return seen, observed.samples, observed.peak_bytes


def _feeds(data: Dataset, ctx: Context) -> Iterator[Mapping[str, np.ndarray]]:
    total = len(data)
    for done, sample in enumerate(data):
        ctx.progress("calibrating", done, total)
        yield sample.feeds
    ctx.progress("calibrating", total, total)


def _why_not(seen: Seen, *, has_given_range: bool) -> str | None:
    """Why a tensor with these values is not quantized; a clause whose subject is the tensor."""
    collector = seen.collector
    if collector is None:
        return seen.reason
    if seen.runs == 0:
        return subgraph_outputs.NEVER_RUN
    if collector.nan:
        return f"held {collector.nan} NaN in calibration"
    if collector.inf:
        return f"held {collector.inf} infinities in calibration"
    if collector.finite == 0:
        return "was empty in every calibration sample"
    if has_given_range:
        return None
    if max(abs(collector.low), abs(collector.high)) > MASK:
        return f"holds a mask: its range is [{collector.low:.3g}, {collector.high:.3g}]"
    if collector.low == collector.high:
        what = "zero" if collector.low == 0 else f"constant ({collector.low:.3g})"
        return f"was {what} in all of calibration"
    return None
