"""Where recipes are tried: models are built in a scratch folder, judged on data, and timed beside each other."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import onnx_ir as ir

from modelopt import graph, io
from modelopt.calibration.context import Context
from modelopt.engine import early_checks, error_notes, measurements, optimize
from modelopt.engine.compiled_models import require_source
from modelopt.measure.speed import FEWEST
from modelopt.recipe.recipe import BenchSpec, Recipe, Step
from modelopt.report import Latency, SkipInfo
from modelopt.runtime import placement
from modelopt.runtime.coverage import Coverage
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from modelopt.search.accuracy import Judge

PROFILED_RUNS = range(20, 201)
"""How often a model runs under the profiler: single kernels take microseconds, and what pays must not be luck."""

_PROFILED_NS = 300_000_000

_PRECISION = 0.04
_SECONDS = 15.0
"""For one comparison of candidates, of which a search makes several."""


@dataclass(frozen=True)
class Built:
    """A model that was made to be tried.

    Attributes:
        path: Its file, in the scratch folder.
        steps: What made it of the input.
        rewrites: How many places the last step rewrote.
        size_bytes: Of the file, or files.
        skipped: The refusals of the last step.
    """

    path: Path
    steps: tuple[Step, ...]
    rewrites: int
    size_bytes: int
    skipped: tuple[SkipInfo, ...] = ()


@dataclass
class Workshop:
    """Builds, judges and times; see `opened`.

    Attributes:
        request: What the user asked for.
        input: The input model as `Built`, with no steps.
        context: What passes are lent.
        data: The data of the run.
        worker: Opens models.
        scratch: The folder.
        not_timed: Why models are not timed here: see `measuring.why_not_timed`.
    """

    request: optimize.Request
    input: Built
    context: Context
    data: measurements.Data
    worker: Worker
    scratch: Path
    not_timed: str | None = None
    _feeds: measurements.Feeds | None = field(default=None)
    _judge: Judge | None = field(default=None)
    _count: int = 0

    def build(self, base: Built, steps: Sequence[Step]) -> Built:
        """Apply `steps` to the model in `base`.

        Raises:
            ModeloptError: As the passes do.
        """
        model = self.load(base)
        declared = graph.declared_values(model)
        optimize.apply(steps[:-1], model, self.context)
        last = optimize.apply(steps[-1:], model, self.context)
        graph.forget_shapes(model, keep=declared)
        self._count += 1
        path = self.scratch / f"candidate-{self._count}.onnx"
        io.write_aside(model, path)
        rewrites = sum(result.rewrites for result in last)
        size = sum(file.stat().st_size for file in self.scratch.glob(f"{path.name}*"))
        return Built(path, (*base.steps, *steps), rewrites, size, last[-1].skipped if last else ())

    def load(self, built: Built) -> ir.Model:
        """The model in a built file."""
        return io.load(built.path, scratch=self.scratch, allow_hardlinks=self.request.allow_hardlinks).model

    def digest(self, built: Built) -> str:
        """SHA-256 (hex) of a built model's files."""
        found = hashlib.sha256()
        for file in sorted(self.scratch.glob(f"{built.path.name}*")):
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        return found.hexdigest()

    def discard(self, built: Built) -> None:
        """Remove the file of a model that is of no more use."""
        io.remove_aside(built.path)

    def time(self, before: Built, after: Built, *, threads: int | None = None) -> Latency:
        """Time two models well enough to choose between them: in fewer processes than the result will be timed in."""
        bench = self.request.recipe.bench
        if bench is None:
            raise ValueError("the recipe does not measure latency")
        bench = bench if threads is None else msgspec.structs.replace(bench, threads=threads)
        seconds = min(bench.budget_seconds, _SECONDS)
        bench = msgspec.structs.replace(bench, processes=min(bench.processes, FEWEST), budget_seconds=seconds)
        feeds, limits = self._bench_feeds(), self.request.limits
        progress = self.request.progress
        return measurements.time_both(bench, before.path, after.path, feeds, limits, progress, precision=_PRECISION)

    def profile(self, built: Built) -> Coverage:
        """What the runtime executes for each node of a model, and how long."""
        spec = measurements.session_spec(self.request.recipe.bench)
        feeds, model, fewest = self._bench_feeds()[0], self.load(built), PROFILED_RUNS[0]
        found = placement.coverage(self.worker, built.path, model, feeds, spec=spec, runs=fewest)
        runs = min(PROFILED_RUNS[-1], _PROFILED_NS // max(1, sum(cost.median_ns for cost in found.nodes)))
        if runs <= fewest:
            return found
        return placement.coverage(self.worker, built.path, model, feeds, spec=spec, runs=runs)

    def _bench_feeds(self) -> measurements.Feeds:
        if self._feeds is None:
            dataset = measurements.inputs(self.data, self.worker, self.input.path)
            self._feeds = measurements.first_feeds(dataset, measurements.BENCH_FEEDS)
        return self._feeds

    def renew(self) -> None:
        """Start another worker in place of one that a model ended."""
        self.worker.close()
        self.worker = Worker(self.request.limits, exact=measurements.is_exact(self.request.recipe))
        self._judge = None

    @property
    def judge(self) -> Judge:
        """Compares models with the input on the evaluation data, or on what stands in for them."""
        if self._judge is None:
            recipe = self.request.recipe
            dataset = measurements.inputs(self.data, self.worker, self.input.path)
            spec = measurements.judging_spec(recipe)
            self._judge = Judge(
                self.worker,
                self.input.path,
                dataset,
                spec,
                metrics=measurements.metrics_of(recipe),
                heads=self.data.heads,
                progress=self.request.progress,
            )
        return self._judge


@contextlib.contextmanager
def opened(request: optimize.Request) -> Iterator[Workshop]:
    """A workshop for the input of `request`.

    Raises:
        ModeloptError: As `engine.run`.
    """
    recipe = request.recipe
    early_checks.require(recipe)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="modelopt-")))
        loaded = io.load(
            request.model, scratch=request.stdin_folder or scratch, allow_hardlinks=request.allow_hardlinks
        )
        require_source(loaded.model, loaded.shown)
        stack.enter_context(error_notes.explained(loaded.path, ()))
        data = measurements.open_all(recipe, loaded.model)
        exact = measurements.is_exact(recipe)
        runner = WorkerRunner(limits=request.limits, exact=exact, children=request.children)
        stack.callback(runner.close)
        worker = Worker(request.limits, exact=exact, children=request.children)
        stack.callback(worker.close)
        worker.require((recipe.bench or BenchSpec()).provider)
        measurements.fit_random(recipe, data, worker, loaded.path)
        context = optimize.context_of(request, runner, data)
        given = Built(loaded.path, (), 0, loaded.size_bytes)
        shop = Workshop(request, given, context, data, worker, scratch, measurements.why_not_timed(recipe))
        stack.callback(lambda: shop.worker.close())
        yield shop


def with_steps(recipe: Recipe, built: Built) -> Recipe:
    """The recipe that makes `built` of the input."""
    return dataclasses.replace(recipe, steps=built.steps)
