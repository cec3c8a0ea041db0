"""The one loop over passes, and the one path that every optimizing command takes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import onnx_ir as ir

from modelopt import __version__, graph, io
from modelopt.calibration.cache import Calibrations
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.core.errors import Refused, VerificationFailed, WorkerDied
from modelopt.core.progress import Progress, silent
from modelopt.core.signature import Signature
from modelopt.engine import (
    early_checks,
    error_notes,
    gates,
    load_check,
    measurements,
    opset_raising,
    output_paths,
    result_file,
)
from modelopt.engine.compiled_models import require_source
from modelopt.engine.observers import Dump, Enough, Observer, StopAfter
from modelopt.graph import invariants
from modelopt.io import provenance
from modelopt.passes.base import Pass
from modelopt.quant.static import existing_qdq
from modelopt.recipe.dumping import dump
from modelopt.recipe.paths import without_folders
from modelopt.recipe.pipelines import RAISE
from modelopt.recipe.recipe import Recipe, Step, UntilStable
from modelopt.report import FileInfo, ModelStats, PassResult, Report, SkipInfo, TensorInfo, verdict
from modelopt.runtime import placement
from modelopt.runtime.coverage import Coverage
from modelopt.runtime.installation import runtime_version
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from modelopt.verification.prepare import Original, Prepared, prepare
from modelopt.verification.verify import Verify

MAX_PROFILED_BYTES = 256 * 2**20
"""Larger results are not profiled: the runtime writes its optimized graph for that."""

MAX_ROUNDS = 10
"""How often a group of passes is repeated before it counts as unstable."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do, with what, and where to put it.

    Attributes:
        recipe: The recipe.
        model: The input file, or `io.STDIO`.
        output: The output file, or `io.STDIO`.
        if_exact: The output file where only exact passes changed something; None: `output`.
        if_unchanged: The output file where nothing changed; None: `output`.
        keep: Write the output even when a gate fails.
        dump_folder: Where to write the model after each pass.
        limits: Of the child processes.
        children: Child processes that were started ahead; None starts each when it is needed.
        stdin_folder: Where the bytes of stdin are kept, so that several runs can load them; None for one run only.
        allow_hardlinks: See `io.load`.
        external_data: Whether the output's weights go to a file of their own.
        verify_samples: How many samples of the user's data verification uses, beside the feeds that it constructs.
        calibrations: Remembers what calibration observed; runs that share it observe once.
        progress: Called with (what, done, total or None).
    """

    recipe: Recipe
    model: Path
    output: Path
    if_exact: Path | None = None
    if_unchanged: Path | None = None
    keep: bool = False
    dump_folder: Path | None = None
    limits: Limits | None = None
    children: ChildPool | None = None
    stdin_folder: Path | None = None
    allow_hardlinks: bool = False
    external_data: io.ExternalData = io.ExternalData.AUTO
    verify_samples: int = 4
    calibrations: Calibrations | None = None
    progress: Progress = silent


def run(request: Request) -> Report:
    """Load, optimize, verify, measure, and write.

    Where it turns out that the conversion to another opset, which nobody asked for, changed what the model computes,
    all is done again without it.

    Raises:
        ModeloptError: Any of its kinds; nothing was written then.
    """
    if request.recipe.search is not None:
        raise ValueError("modelopt.search.recipe_search makes the recipes of a search; the engine runs one of them")
    try:
        return _run(request)
    except VerificationFailed as failure:
        if failure.step != RAISE:
            raise
        note = opset_raising.undone(failure)
    report = _run(dataclasses.replace(request, recipe=opset_raising.without(request.recipe)))
    return msgspec.structs.replace(report, notes=(*report.notes, note))


def _run(request: Request) -> Report:
    recipe = request.recipe
    output_paths.require(request.model, (request.output, request.if_exact, request.if_unchanged))
    early_checks.require(recipe)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="modelopt-")))
        exact = measurements.is_exact(recipe)
        runner = WorkerRunner(limits=request.limits, exact=exact, children=request.children)
        stack.callback(runner.close)
        spare = runner.start()
        loaded = io.load(
            request.model, scratch=request.stdin_folder or scratch, allow_hardlinks=request.allow_hardlinks
        )
        measured = recipe.verify or recipe.bench is not None or recipe.evaluate is not None
        if measured:
            require_source(loaded.model, loaded.shown)
        made_by: list[str] = []
        stack.enter_context(error_notes.explained(loaded.path, made_by))
        data = measurements.open_all(recipe, loaded.model, _signature_after(recipe, loaded.model))
        worker = (
            stack.enter_context(Worker(request.limits, exact=exact, children=request.children)) if measured else spare
        )
        measurements.fit_random(recipe, data, worker, loaded.path)
        context = context_of(request, runner, data)
        if recipe.bench is not None:
            worker.require(recipe.bench.provider)
        observers: list[Observer] = []
        verify = None
        if recipe.verify:
            worker.keep_soon(loaded.path, SessionSpec(spin=False))
            verify = _verifier(request, loaded, data, worker, context, scratch)
            observers.append(verify)
        if request.dump_folder:
            observers.append(Dump(request.dump_folder))

        declared = graph.declared_values(loaded.model)
        results = apply(recipe.steps, loaded.model, context, observers, request.progress)
        made_by += [result.step for result in results if result.rewrites]
        versions = {"modelopt": __version__, "onnxruntime": runtime_version()}
        graph.forget_shapes(loaded.model, keep=declared)
        history = provenance.take(loaded.model) if made_by else ()

        def metadata() -> dict[str, str]:
            return provenance.metadata((*history, _entry(recipe, loaded, context, versions)))

        def reload() -> ir.Model:
            return io.load(loaded.path, scratch=scratch, allow_hardlinks=request.allow_hardlinks).model

        outputs = request.output, request.if_exact, request.if_unchanged
        with result_file.made(
            recipe,
            loaded,
            results,
            outputs,
            metadata=metadata,
            external_data=request.external_data,
            reload=reload,
            keep=request.keep,
        ) as made:
            results, staged = made.results, made.staged
            if verify is not None:
                verify.finish(staged.path, changed=not made.unchanged)
            verification = None if verify is None else verify.found(data.users_source)
            findings = measurements.measure(
                recipe,
                loaded.path,
                staged.path,
                data,
                worker,
                unchanged=made.unchanged,
                verified=verify is not None and verify.max_relative_error is not None,
                unproved=None if verification is None else verification.unproved,
                runs=verify is None or verify.nothing_runs is None,
                limits=request.limits,
                progress=request.progress,
            )
            not_loaded = None
            if not load_check.was_run(findings) and not (verify is not None and verify.segments):
                not_loaded = load_check.require(recipe, loaded.path, staged.path, worker, request.limits)
            coverage = _coverage(recipe, results, staged, loaded.model, data, worker)
            judged = (
                *gates.judge(recipe.gates, loaded.size_bytes, staged.size_bytes, findings),
                *gates.judge_verification(recipe.gates, verification),
            )
            written = request.keep or all(gate.passed is not False for gate in judged)
            if written:
                staged.commit()
            said = (
                not_loaded,
                gates.unchecked(recipe, results, findings),
                gates.measured_elsewhere(recipe, findings),
                measurements.doubtful_guesses(findings.accuracy, data.guesses),
            )
            compared = findings.accuracy is not None
            report = Report(
                input=FileInfo(path=loaded.shown, size_bytes=loaded.size_bytes, sha256=loaded.sha256),
                output=FileInfo(path=str(made.output), size_bytes=staged.size_bytes),
                written=written,
                recipe=dump(recipe, in_full=True),
                target=str(context.target),
                seed=recipe.seed,
                passes=results,
                verification=verification,
                latency=findings.latency,
                not_timed=findings.not_timed,
                accuracy=findings.accuracy,
                gates=judged,
                notes=(
                    *data.notes_for(calibrated=_calibrated(recipe, results), compared=compared),
                    *_exactly(loaded.model, context),
                    *opset_raising.notes(results),
                    *filter(None, said),
                ),
                versions=versions,
                coverage=coverage,
            )
            return msgspec.structs.replace(report, verdict=verdict.of(report))


def context_of(request: Request, runner: WorkerRunner, data: measurements.Data) -> Context:
    """What the passes of a request are lent."""
    return Context(
        runner=runner,
        target=measurements.target_of(request.recipe),
        calibration=data.calibration,
        seed=request.recipe.seed,
        progress=request.progress,
        calibrations=request.calibrations,
    )


def _exactly(result: ir.Model, context: Context) -> tuple[str, ...]:
    """A note where the result's integers were not computed as this machine computes them."""
    note = targets.how_products_were_computed(context.target)
    return () if note is None or existing_qdq.first_integer_node(result) is None else (note,)


# The loop


def apply(
    steps: Sequence[Step],
    model: ir.Model,
    context: Context,
    observers: Sequence[Observer] = (),
    progress: Progress = silent,
) -> tuple[PassResult, ...]:
    """Apply the steps to `model` in place.

    Returns:
        One result for each application of a pass, except that rounds of a group after the first are listed only where
        they changed something.

    Raises:
        VerificationFailed: A pass left an invalid model, other inputs or outputs, or one that computes something else.
    """
    results: list[PassResult] = []
    declared = graph.declared_values(model)
    _learn_shapes(model, context)
    for done, step in enumerate(steps):
        progress("passes", done, len(steps))
        if isinstance(step, UntilStable):
            results.extend(_until_stable(step, model, context, observers, declared))
        else:
            results.append(_apply_one(step, model, context, observers))
    for observer in observers:
        observer.end(model)
    progress("passes", len(steps), len(steps))
    return tuple(results)


def _until_stable(
    group: UntilStable,
    model: ir.Model,
    context: Context,
    observers: Sequence[Observer],
    declared: frozenset[str],
) -> Iterator[PassResult]:
    for turn in range(MAX_ROUNDS):
        changed = False
        for one in group.passes:
            result = _apply_one(one, model, context, observers)
            changed |= result.rewrites > 0
            if turn == 0 or result.rewrites:
                yield result
        if not changed:
            return
        _learn_shapes_anew(model, context, declared)


def _learn_shapes(model: ir.Model, context: Context) -> None:
    """Shapes let passes do more; without them each says what it could not do."""
    with contextlib.suppress(Refused, WorkerDied):
        context.runner.infer_shapes(model)


def _learn_shapes_anew(model: ir.Model, context: Context, declared: frozenset[str]) -> None:
    """What is known of the rewritten model is what a run on its file would know: so that one finds nothing to do."""
    known = [(value, value.type, value.shape) for node in graph.all_nodes(model) for value in node.outputs]
    graph.forget_shapes(model, keep=declared)
    try:
        context.runner.infer_shapes(model)
    except (Refused, WorkerDied):
        for value, type_, shape in known:
            value.type, value.shape = type_, shape


def _apply_one(step: Pass, model: ir.Model, context: Context, observers: Sequence[Observer]) -> PassResult:
    for observer in observers:
        observer.before(step, model)
    before, signature, shapes = (
        _stats(model),
        measurements.signature_of(model),
        [out.shape for out in model.graph.outputs],
    )
    started = time.perf_counter_ns()
    try:
        changes = step.apply(model, context)
    except Exception as error:
        error.add_note(f"while running the pass {step}")
        raise
    wall_ns = time.perf_counter_ns() - started
    result = PassResult(
        step=str(step),
        effect=step.effect.value,
        contrib=step.leaves_contrib(),
        rewrites=changes.rewrites,
        skipped=tuple(SkipInfo(node=skip.node, reason=skip.reason) for skip in changes.skipped),
        facts=dict(changes.facts),
        tensors=tuple(TensorInfo(**dataclasses.asdict(tensor)) for tensor in changes.tensors),
        wall_ns=wall_ns,
        before=before,
        after=_stats(model) if changes.rewrites else before,
    )
    if changes.rewrites:
        for out, shape in zip(model.graph.outputs, shapes, strict=False):
            if out.shape is None:  # who makes another node of an output need not say again what was declared
                out.shape = shape
        invariants.require(model, str(step), step.declared_after(signature), measurements.signature_of(model))
    for observer in observers:
        observer.after(step, model, result)
    return result


def _stats(model: ir.Model) -> ModelStats:
    nodes = sum(node.op_type != "Constant" for node in graph.all_nodes(model))
    return ModelStats(nodes=nodes, weight_bytes=graph.weight_bytes(model))


# Parts of a run


def _signature_after(recipe: Recipe, model: ir.Model) -> Signature:
    """The signature that the result will have: feeds that fit it fit the original as well."""
    signature = measurements.signature_of(model)
    for step in recipe.passes():
        signature = step.signature_after(signature)
    return signature


def _verifier(
    request: Request,
    loaded: io.Loaded,
    data: measurements.Data,
    worker: Worker,
    context: Context,
    scratch: Path,
) -> Verify:
    def replay(count: int) -> ir.Model:
        """The model after the first `count` applications of passes."""
        model = io.load(loaded.path, scratch=scratch, allow_hardlinks=request.allow_hardlinks).model
        with contextlib.suppress(Enough):
            apply(request.recipe.steps, model, context, [StopAfter(count)])
        return model

    original = Original.of(loaded.model, loaded.path, data.signature)

    def prepared() -> Prepared:
        real = [] if data.users is None else measurements.first_feeds(data.users, request.verify_samples)
        return prepare(original, real, worker, lambda: replay(0), scratch, data.seed)

    exact_only = measurements.is_verified(request.recipe)
    return Verify(loaded.path, prepared, worker, replay, scratch, last_from_file=True, exact_only=exact_only)


def _calibrated(recipe: Recipe, results: Sequence[PassResult]) -> bool:
    """Whether calibration data had a part in the result."""
    calibrating = {str(step) for step in recipe.passes() if step.calibrates()}
    return any(result.rewrites and result.step in calibrating for result in results)


def _entry(recipe: Recipe, loaded: io.Loaded, context: Context, versions: dict[str, str]) -> provenance.Entry:
    return provenance.Entry(
        modelopt=__version__,
        recipe=dump(without_folders(recipe), in_full=True),
        input_sha256=loaded.sha256,
        target=context.target.kind.value,
        data_sha256=context.calibration.digest() if context.calibration is not None else None,
        onnxruntime=versions["onnxruntime"],
    )


def _coverage(
    recipe: Recipe,
    results: Sequence[PassResult],
    staged: io.Staged,
    model: ir.Model,
    data: measurements.Data,
    worker: Worker,
) -> Coverage | None:
    """What computes in integers, where a pass quantized and latency is measured; profiling a large model takes long."""
    quantized = any(result.rewrites and result.step.startswith("quantize-") for result in results)
    on_cpu = recipe.bench is not None and recipe.bench.provider == "cpu"
    if (
        not quantized
        or not on_cpu
        or measurements.why_not_timed(recipe) is not None
        or staged.size_bytes > MAX_PROFILED_BYTES
    ):
        return None
    feeds = measurements.first_feeds(measurements.inputs(data, worker, staged.path), 1)[0]
    return placement.coverage(worker, staged.path, model, feeds, spec=measurements.session_spec(recipe.bench))
