"""What is measured of a result: speed, accuracy, whether onnxruntime loads it, and what it computes in integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from modelopt.core.progress import Progress
from modelopt.engine import datasets, figure_gates, judging, load_check, settings
from modelopt.engine.datasets import Feeds
from modelopt.engine.findings import Findings
from modelopt.engine.opening import OpenRun
from modelopt.engine.result_file import StagedResult
from modelopt.engine.settings import USUAL, Closeness
from modelopt.measure.evaluate import evaluate
from modelopt.measure.latency import run_bench
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.recipe.recipe import BenchSpec
from modelopt.report import Latency, Verification
from modelopt.runtime import placement
from modelopt.runtime.coverage import Coverage
from modelopt.runtime.limits import Limits

MAX_PROFILED_BYTES = 256 * 2**20
"""Larger results are not profiled: the runtime writes its optimized graph for that."""


def measure(run: OpenRun, result: StagedResult, verification: Verification | None, *, runs: bool) -> Findings:
    """Run the original and the result side by side: latency, then accuracy or fidelity.

    Where neither needs to run, the result is loaded once.

    Args:
        run: The run.
        result: What passes made.
        verification: What verification found; None where it was not asked for.
        runs: Whether there are inputs that the original runs on.

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
        WorkerDied: One of them ends the child process.
    """
    before_bytes, after_bytes = run.loaded.size_bytes, result.file.size_bytes
    if not run.request.keep and judging.is_too_large(run.recipe.gates, before_bytes, after_bytes):
        reason = "not measured: the result is larger than --max-size allows"
        return Findings(unchanged=result.unchanged, not_measured=reason, not_timed=reason)
    findings = _side_by_side(run, result, verification, runs=runs)
    not_loaded = None
    compared_by_verification = verification is not None and verification.exact_segments > 0
    if not load_check.was_run(findings) and not compared_by_verification:
        original, limits = run.loaded.path, run.request.limits
        not_loaded = load_check.require(run.recipe, original, result.file.path, run.worker, limits)
    return dataclasses.replace(findings, not_loaded=not_loaded, coverage=_coverage(run, result))


def _side_by_side(run: OpenRun, result: StagedResult, verification: Verification | None, *, runs: bool) -> Findings:
    recipe, data, worker, before, after = run.recipe, run.data, run.worker, run.loaded.path, result.file.path
    not_timed = settings.why_not_timed(recipe)
    if result.unchanged and not (runs and figure_gates.asked(recipe.gates)):
        return Findings(unchanged=True, not_timed=not_timed)
    if recipe.bench is None and recipe.evaluate is None and not recipe.verify:
        return Findings(unchanged=result.unchanged, not_timed=not_timed)
    worker.forget(before)
    unproved = None if verification is None else verification.unproved
    if not runs:
        if recipe.bench is not None and not_timed is None:
            not_timed = "not measured: the model does not run on random inputs"
        return Findings(unchanged=False, blank=unproved, not_timed=not_timed)
    limits, progress = run.request.limits, run.request.progress
    latency = None
    if recipe.bench is not None and not_timed is None:
        feeds = datasets.first_feeds(datasets.inputs(data, worker, before), datasets.BENCH_FEEDS)
        closeness = settings.closeness_for(recipe.gates)
        latency = time_both(recipe.bench, before, after, feeds, limits, progress, closeness=closeness)
    if result.unchanged:
        return Findings(unchanged=True, latency=latency, not_timed=not_timed)
    if recipe.evaluate is None and settings.is_verified(recipe):
        verified = verification is not None and verification.max_relative_error is not None
        return Findings(
            unchanged=False,
            latency=latency,
            same_outputs=verified,
            blank=None if verified else _why_blank(unproved),
            not_timed=not_timed,
        )
    accuracy = evaluate(
        before,
        after,
        datasets.inputs(data, worker, before),
        settings.judging_spec(recipe),
        metrics=settings.metrics_of(recipe),
        heads=data.heads,
        limits=limits,
        progress=progress,
    )
    return Findings(unchanged=False, latency=latency, accuracy=accuracy, not_timed=not_timed, guesses=data.guesses)


def _why_blank(unproved: str | None) -> str:
    return "nothing was compared" if unproved in {None, NOTHING_COMPARED} else str(unproved)


def time_both(
    bench: BenchSpec,
    before: Path,
    after: Path,
    feeds: Feeds,
    limits: Limits | None,
    progress: Progress,
    *,
    closeness: Closeness = USUAL,
) -> Latency:
    """Time two models in interleaved rounds, until the ratio is known well enough or the budget is spent.

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
    """
    spec = settings.bench_spec(bench, closeness=closeness)
    first, second = run_bench([before, after], feeds, spec, limits=limits, progress=progress)
    return Latency(before=first, after=second, ratio=second.times_as_fast_as(first))


def _coverage(run: OpenRun, result: StagedResult) -> Coverage | None:
    """What computes in integers, where a pass quantized and latency is measured; profiling a large model takes long."""
    bench, file = run.recipe.bench, result.file
    quantized = any(one.rewrites and one.step.startswith("quantize-") for one in result.passes)
    timed = bench is not None and bench.provider == "cpu" and settings.why_not_timed(run.recipe) is None
    if not quantized or not timed or file.size_bytes > MAX_PROFILED_BYTES:
        return None
    feeds = datasets.first_feeds(datasets.inputs(run.data, run.worker, file.path), 1)[0]
    spec = settings.session_spec(bench)
    return placement.coverage(run.worker, file.path, run.loaded.model, feeds, spec=spec)
