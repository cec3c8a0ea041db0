"""The one path that every optimizing command takes, from the input's file to the output's."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from modelopt import __version__, graph
from modelopt.core import targets
from modelopt.core.errors import VerificationFailed
from modelopt.engine import datasets, gates, judging, measurements, opening, opset_raising, result_file, settings
from modelopt.engine.findings import Findings
from modelopt.engine.loop import apply
from modelopt.engine.observers import Dump, Enough, Observer, StopAfter
from modelopt.engine.opening import OpenRun
from modelopt.engine.request import Request
from modelopt.engine.result_file import StagedResult
from modelopt.io import provenance
from modelopt.io.compressed_size import compressed_size
from modelopt.quant.static import existing_qdq
from modelopt.recipe.dumping import dump
from modelopt.recipe.paths import without_folders
from modelopt.recipe.pipelines import RAISE
from modelopt.recipe.recipe import PRUNING
from modelopt.report import FileInfo, GateResult, PassResult, Report, Verification, next_step
from modelopt.runtime.installation import runtime_version
from modelopt.runtime.session import SessionSpec
from modelopt.verification.prepare import Original, Prepared, prepare
from modelopt.verification.verify import Verify

__all__ = ["Request", "Run", "run"]


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
    return _run(
        dataclasses.replace(
            request,
            recipe=opset_raising.without(request.recipe),
            finish=lambda report: request.finish(msgspec.structs.replace(report, notes=(*report.notes, note))),
        )
    )


def _run(request: Request) -> Report:
    recipe = request.recipe
    measured = recipe.verify or recipe.bench is not None or recipe.evaluate is not None
    with opening.opened(request, runs_models=measured) as opened:
        steps = Run(opened)
        results = steps.apply()
        with steps.stage(results) as staged:
            verification = steps.verify(staged)
            findings = steps.measure(staged, verification)
            judged = steps.judge(staged, verification, findings)
            return steps.commit(staged, steps.report(staged, verification, findings, judged))


class Run:
    """One run; its methods are the steps, in the order of their calls.

    Args:
        opened: The input, its data, and the child processes.
    """

    def __init__(self, opened: OpenRun) -> None:
        self._opened = opened
        self._recipe = opened.recipe
        self._versions = {"modelopt": __version__, "onnxruntime": runtime_version()}
        self._verifier = None
        if self._recipe.verify:
            opened.worker.keep_soon(opened.loaded.path, SessionSpec(spin=False))
            self._verifier = self._new_verifier()

    def apply(self) -> tuple[PassResult, ...]:
        """Apply the passes to the input's model.

        Raises:
            VerificationFailed: As `loop.apply`.
        """
        opened, request, model = self._opened, self._opened.request, self._opened.loaded.model
        observers: list[Observer] = [] if self._verifier is None else [self._verifier]
        if request.dump_folder:
            observers.append(Dump(request.dump_folder))
        declared = graph.declared_values(model)
        results = apply(self._recipe.steps, model, opened.context, observers, request.progress)
        opened.changed_by += [result.step for result in results if result.rewrites]
        graph.forget_shapes(model, keep=declared)
        return results

    def stage(self, results: tuple[PassResult, ...]) -> contextlib.AbstractContextManager[StagedResult]:
        """Write the result, or a copy of the input where it is none, under a temporary name."""
        history = provenance.take(self._opened.loaded.model) if self._opened.changed_by else ()
        return result_file.stage(
            self._opened, results, metadata=lambda: provenance.metadata((*history, self._provenance()))
        )

    def verify(self, result: StagedResult) -> Verification | None:
        """Compare what exact passes did last, in the file; None where verification was not asked for.

        Raises:
            VerificationFailed: As `Verify.finish`.
        """
        if self._verifier is None:
            return None
        self._verifier.finish(result.file.path, changed=not result.unchanged)
        return self._verifier.found(self._opened.data.users_source)

    def measure(self, result: StagedResult, verification: Verification | None) -> Findings:
        """See `measurements.measure`."""
        runs = self._verifier is None or self._verifier.nothing_runs is None
        return measurements.measure(self._opened, result, verification, runs=runs)

    def judge(
        self, result: StagedResult, verification: Verification | None, findings: Findings
    ) -> tuple[GateResult, ...]:
        """Judge every gate of the recipe."""
        contract, before_bytes = self._recipe.gates, self._opened.loaded.size_bytes
        return (
            *judging.judge(contract, before_bytes, result.file.size_bytes, findings),
            *judging.judge_verification(contract, verification),
        )

    def report(
        self,
        result: StagedResult,
        verification: Verification | None,
        findings: Findings,
        judged: tuple[GateResult, ...],
    ) -> Report:
        """What the run found; the result is written where no gate failed, or where the user keeps it anyway."""
        written = self._opened.request.keep or not any(gate.stops for gate in judged)
        recipe, loaded, context = self._recipe, self._opened.loaded, self._opened.context
        report = Report(
            input=self._file_info(loaded.shown, loaded.path, loaded.size_bytes, loaded.sha256),
            output=self._file_info(str(result.output), result.file.path, result.file.size_bytes),
            written=written,
            recipe=dump(recipe, in_full=True),
            target=str(context.target),
            seed=recipe.seed,
            passes=result.passes,
            verification=verification,
            latency=findings.latency,
            not_timed=findings.not_timed,
            accuracy=findings.accuracy,
            gates=judged,
            notes=tuple(self._notes(result.passes, findings)),
            versions=self._versions,
            coverage=findings.coverage,
        )
        return next_step.concluded(report)

    def commit(self, result: StagedResult, report: Report) -> Report:
        """Keep the report, then give the result its name where the report says that it is written.

        Returns:
            The report as it was kept.
        """
        request = self._opened.request
        if not report.written:
            return request.finish(report)
        left = result.file.settle()
        output = msgspec.structs.replace(report.output, sha256=result.file.sha256())
        report = request.finish(msgspec.structs.replace(report, output=output, notes=(*report.notes, *left)))
        result.file.commit()
        return report

    def _notes(self, results: Sequence[PassResult], findings: Findings) -> Iterator[str]:
        recipe, data = self._recipe, self._opened.data
        calibrating = {str(step) for step in recipe.passes() if step.calibrates()}
        calibrated = any(result.rewrites and result.step in calibrating for result in results)
        yield from data.notes_for(calibrated=calibrated, compared=findings.accuracy is not None)
        products = targets.how_products_were_computed(self._opened.context.target)
        if products is not None and existing_qdq.first_integer_node(self._opened.loaded.model) is not None:
            yield products
        yield from opset_raising.notes(results)
        others = (
            findings.not_loaded,
            gates.unchecked(recipe, results, findings),
            gates.measured_elsewhere(recipe, findings),
            datasets.doubtful_guesses(findings.accuracy, data.guesses),
        )
        yield from filter(None, others)

    def _file_info(self, shown: str, path: Path, size_bytes: int, sha256: str | None = None) -> FileInfo:
        """The sizes of the input or the output; compressed too where the recipe removes channels or blocks."""
        removes = any(step.name in PRUNING for step in self._recipe.passes())
        external = size_bytes - path.stat().st_size
        compressed = compressed_size(path) if removes and not external else None
        return FileInfo(
            path=shown, size_bytes=size_bytes, sha256=sha256, external_bytes=external, compressed_bytes=compressed
        )

    def _provenance(self) -> provenance.Entry:
        context = self._opened.context
        return provenance.Entry(
            modelopt=__version__,
            recipe=dump(without_folders(self._recipe), in_full=True),
            input_sha256=self._opened.loaded.sha256,
            target=context.target.kind.value,
            data_sha256=context.calibration.digest() if context.calibration is not None else None,
            onnxruntime=self._versions["onnxruntime"],
        )

    def _new_verifier(self) -> Verify:
        opened, loaded, data, request = self._opened, self._opened.loaded, self._opened.data, self._opened.request

        def replay(count: int) -> ir.Model:
            """The model after the first `count` applications of passes."""
            model = opened.reload()
            with contextlib.suppress(Enough):
                apply(self._recipe.steps, model, opened.context, [StopAfter(count)])
            return model

        original = Original.of(loaded.model, loaded.path, data.signature, data.needs, endless=data.endless)

        def prepared() -> Prepared:
            real = [] if data.users is None else datasets.first_feeds(data.users, request.verify_samples)
            return prepare(original, real, opened.worker, lambda: replay(0), opened.scratch, data.seed)

        exact_only = settings.is_verified(self._recipe)
        return Verify(
            loaded.path, prepared, opened.worker, replay, opened.scratch, last_from_file=True, exact_only=exact_only
        )
