"""What `bench` and `compare` do: open models and data, measure, and judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from modelopt import io
from modelopt.core import temporary
from modelopt.core.errors import InputError, ModeloptError
from modelopt.core.signature import TensorSpec
from modelopt.data import Dataset
from modelopt.engine import datasets, early_checks, judging, run_limits, settings
from modelopt.engine.comparison import SideBySide
from modelopt.engine.compiled_models import require_source
from modelopt.engine.findings import Findings
from modelopt.measure import noise_floor, timing_warnings
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.measure.latency import BenchResult, run_bench
from modelopt.measure.speed import Ratio
from modelopt.recipe.recipe import Gates, Recipe
from modelopt.report import FileInfo, GateResult, Latency
from modelopt.report.bench_report import BenchReport
from modelopt.runtime import placement
from modelopt.runtime.coverage import NodeTimes
from modelopt.runtime.limits import Limits
from modelopt.runtime.worker import Worker


def measure_models(asked: SideBySide) -> BenchReport:
    """Measure models side by side.

    Raises:
        InputError: The models do not take the same inputs.
    """
    session, baseline, bench = asked.session, asked.baseline, asked.bench
    progress = asked.progress
    if len(asked.models) == 1 and asked.contract.min_speedup is not None:
        raise InputError(
            "--min-speedup compares two models", note="one was given", hint="name the model to compare with first"
        )
    recipe = Recipe(steps=(), seed=asked.seed, evaluate=asked.data, bench=bench, gates=asked.contract)
    early_checks.require(recipe, asked.memory or ())
    for spec in (session, baseline):
        if spec is not None:
            early_checks.require_provider(spec.provider)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(temporary.folder())
        loaded = [io.load(path, scratch=scratch, accepted=asked.accepted) for path in asked.models]
        for other in loaded[1:]:
            _require_same_inputs(loaded[0], other)
        for position, each in enumerate(loaded):
            runs_on = baseline if position == 0 and baseline is not None else session
            require_source(each.model, each.shown, provider=runs_on.provider)
        limits, endless = _limits(asked.limits, loaded)
        opened = datasets.open_all(recipe, loaded[0].model, memory=asked.memory)
        opened.endless = endless
        opened.hint = f"give it real ones: {asked.data_flag} DATA"
        worker = stack.enter_context(Worker(limits))
        dataset = datasets.inputs(opened, worker, loaded[0].path, free_dims=asked.free_dims)
        paths = [each.path for each in loaded]
        results: list[BenchResult] = []
        noise = None
        if bench is not None:
            feeds = datasets.first_feeds(dataset, datasets.BENCH_FEEDS)
            if asked.calibrate_noise:
                plan = settings.bench_spec(bench)
                noise = _noise(run_bench(paths[:1] * 2, feeds, plan, limits=limits, progress=progress))
            plan = settings.bench_spec(bench, baseline)
            results = run_bench(paths, feeds, plan, limits=limits, progress=progress)
        layers = [] if not asked.by_layer else _layers(asked, loaded, dataset, worker)
        accuracy = None
        if asked.score:
            accuracy = evaluate(
                paths[0],
                paths[1],
                dataset,
                session,
                baseline=baseline,
                metrics=settings.metrics_of(recipe),
                heads=opened.heads,
                limits=limits,
                progress=progress,
            )
        ratios = tuple(result.times_as_fast_as(results[0]) if i else None for i, result in enumerate(results))
        return BenchReport(
            models=tuple(FileInfo(path=each.shown, size_bytes=each.size_bytes, sha256=each.sha256) for each in loaded),
            source=opened.source,
            results=tuple(results),
            ratios=ratios,
            accuracy=accuracy,
            noise=noise,
            layers=tuple(layers),
            gates=_judged(asked.contract, loaded, results, ratios, accuracy),
            warnings=(
                *opened.notes_for(calibrated=False, compared=accuracy is not None),
                *(_other_outputs(loaded[0], loaded[1]) if asked.score else ()),
                *(() if accuracy is None else datasets.doubts(accuracy, opened.guesses)),
                *dict.fromkeys(_timing_doubts(loaded, results)),
            ),
        )


def _layers(asked: SideBySide, loaded: Sequence[io.Loaded], dataset: Dataset, worker: Worker) -> list[NodeTimes]:
    """How long each node of each model takes."""
    (feeds,) = datasets.first_feeds(dataset, 1)
    found = []
    for number, each in enumerate(loaded):
        spec = asked.baseline if number == 0 and asked.baseline is not None else asked.session
        asked.progress("profiling", number, len(loaded))
        found.append(placement.layer_times(worker, each.path, each.model, feeds, spec=spec))
    return found


def _judged(
    contract: Gates,
    loaded: Sequence[io.Loaded],
    results: Sequence[BenchResult],
    ratios: Sequence[Ratio | None],
    accuracy: Accuracy | None,
) -> tuple[GateResult, ...]:
    """The gates: those of one figure of each model but the first, which others are compared with, or of the only one.

    With more than one judged model, what was found names the model.
    """
    if len(loaded) == 1:
        return judging.with_consequences(contract, judging.judge_figures(contract, results[0]))
    judged: list[GateResult] = []
    for number, other in enumerate(loaded[1:], 1):
        ratio = ratios[number] if ratios else None
        latency = None if ratio is None else Latency(before=results[0], after=results[number], ratio=ratio)
        findings = Findings(unchanged=False, latency=latency, accuracy=accuracy)
        found = judging.judge(contract, loaded[0].size_bytes, other.size_bytes, findings)
        named = f"{other.shown}: " if len(loaded) > 2 else ""
        judged += [msgspec.structs.replace(gate, found=f"{named}{gate.found}") for gate in found]
    return tuple(judged)


def _limits(limits: Limits | None, loaded: Sequence[io.Loaded]) -> tuple[Limits, str | None]:
    """The limits for these models, those of the one that may use most; and why a run of one would not end.

    Raises:
        Refused: One of them needs more.
    """
    found = [run_limits.required(limits, each) for each in loaded]
    largest = max((allowed for allowed, _ in found), key=lambda allowed: allowed.request_bytes or 0)
    return largest, next((needs.endless for _, needs in found if needs.endless is not None), None)


def _noise(copies: Sequence[BenchResult]) -> Ratio:
    """How the second of two equal models compares with the first; it is kept for later runs."""
    ratio = copies[1].times_as_fast_as(copies[0])
    try:
        noise_floor.store(copies[0].env, noise_floor.of(ratio))
    except (OSError, ModeloptError) as error:
        raise InputError(
            "the noise floor cannot be kept",
            note=f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error.fact,
            hint="set XDG_CACHE_HOME to a folder that can be written to",
        ) from error
    return ratio


def _other_outputs(first: io.Loaded, other: io.Loaded) -> Iterator[str]:
    """How the outputs of the second model differ from those of the first in name, order, type and shape: one line."""
    ours, theirs = (datasets.signature_of(each.model).outputs for each in (first, other))
    named = {spec.name: spec for spec in theirs}
    left = [spec for spec in theirs if spec.name not in {each.name for each in ours}]
    renamed = [spec for spec in ours if spec.name not in named]
    found = [
        f"'{was.name}' of {first.shown} is compared with '{now.name}', for it has none of that name"
        for was, now in zip(renamed, left, strict=False)
    ]
    pairs = [(spec, named[spec.name]) for spec in ours if spec.name in named] + list(zip(renamed, left, strict=False))
    same = [spec.name for spec in ours if spec.name in named]
    if same != [spec.name for spec in theirs if spec.name in set(same)]:
        found.append(f"they come in another order: {', '.join(spec.name for spec in theirs)}")
    for was, now in pairs:
        was_type, now_type = (_type_of(spec) for spec in (was, now))
        if was_type != now_type:
            found.append(f"'{now.name}' is {now_type}, and was {was_type}")
    if found:
        yield f"the outputs of {other.shown} differ: {'; '.join(found)}"


def _type_of(spec: TensorSpec) -> str:
    return str(spec)[len(spec.name) + 2 :]


def _timing_doubts(loaded: Sequence[io.Loaded], results: Sequence[BenchResult]) -> Iterator[str]:
    """Warnings about the latency."""
    first = loaded[0]
    for other in loaded[1:] if results else ():
        if (other.sha256, other.size_bytes) == (first.sha256, first.size_bytes) and other.shown != first.shown:
            yield f"{other.shown} is {first.shown}, byte for byte: what they differ by is this machine's noise"
    for result in results:
        yield from result.warnings
    yield from filter(None, (timing_warnings.of_percentiles(result.samples_ns) for result in results))


def _require_same_inputs(first: io.Loaded, other: io.Loaded) -> None:
    ours, theirs = datasets.signature_of(first.model), datasets.signature_of(other.model)
    if [(spec.name, spec.dtype) for spec in ours.inputs] != [(spec.name, spec.dtype) for spec in theirs.inputs]:
        raise InputError(
            f"{first.shown} and {other.shown} do not take the same inputs",
            note=f"{', '.join(map(str, ours.inputs))} against {', '.join(map(str, theirs.inputs))}",
        )
