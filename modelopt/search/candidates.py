"""Where recipes are tried: candidates are built in a scratch folder, judged on data, and timed beside each other."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import onnx_ir as ir

from modelopt import graph, io
from modelopt.core.changes import Skip
from modelopt.core.errors import Refused, WorkerDied
from modelopt.core.progress import Progress
from modelopt.data import Dataset
from modelopt.engine import datasets, loop, measurements, opening, settings
from modelopt.engine.request import Request
from modelopt.engine.settings import Closeness
from modelopt.measure.speed import FEWEST, FIRST
from modelopt.recipe.recipe import Step
from modelopt.report import Latency
from modelopt.runtime import placement
from modelopt.runtime.coverage import Coverage
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.search.accuracy import Judge

PROFILED_RUNS = range(20, 201)
"""How often a model runs under the profiler: a kernel takes microseconds, and a few runs of it are mostly noise."""

_PROFILED_NS = 300_000_000
"""The time that these runs may take together, beyond the fewest."""


class _Effort(NamedTuple):
    """How long two candidates are timed; the figures are guesses.

    Attributes:
        processes: Fresh processes of each model, at least.
        seconds: The most that a comparison may take, of which a search makes several.
        precision: The relative half-width of the ratio's interval at which it ends.
    """

    processes: int
    seconds: float
    precision: float


_SHORTLY = _Effort(FEWEST, 15.0, 0.04)
_CLOSELY = _Effort(FIRST, 30.0, 0.01)


@dataclass(frozen=True)
class Candidate:
    """A model that was built to be tried.

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
    skipped: tuple[Skip, ...] = ()


class Candidates:
    """Builds candidates, judges, times and profiles them; see `opened`.

    Attributes:
        request: What the user asked for.
        data: The data of the run.
        context: What passes are lent.
        input: The input model as a candidate, with no steps.
        not_timed: Why models are not timed here: see `settings.why_not_timed`.
    """

    def __init__(self, run: opening.OpenRun) -> None:
        self._run = run
        self.request = run.request
        self.data = run.data
        self.context = run.context
        self.input = Candidate(run.loaded.path, (), 0, run.loaded.size_bytes)
        self.not_timed = settings.why_not_timed(run.recipe)
        self._feeds: datasets.Feeds | None = None
        self._profiles: dict[Path, Coverage] = {}
        self._judges: dict[int, Judge] = {}  # by the identity of the data
        self._count = 0

    def build(self, base: Candidate, steps: Sequence[Step]) -> Candidate:
        """Apply `steps` to the model in `base`.

        Raises:
            ModeloptError: As the passes do.
        """
        model = self.load(base)
        declared = graph.declared_values(model)
        loop.apply(steps[:-1], model, self.context)
        last = loop.apply(steps[-1:], model, self.context)
        graph.forget_shapes(model, keep=declared)
        self._count += 1
        path = self._run.scratch / f"candidate-{self._count}.onnx"
        io.write_aside(model, path)
        rewrites = sum(result.rewrites for result in last)
        size_bytes = sum(file.stat().st_size for file in self._files(path))
        return Candidate(path, (*base.steps, *steps), rewrites, size_bytes, last[-1].skipped if last else ())

    def load(self, candidate: Candidate) -> ir.Model:
        """The model of a candidate."""
        return self._run.load(candidate.path)

    def digest(self, candidate: Candidate) -> str:
        """SHA-256 (hex) of a candidate's files."""
        found = hashlib.sha256()
        for file in self._files(candidate.path):
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        return found.hexdigest()

    def discard(self, candidate: Candidate) -> None:
        """Remove the file of a candidate that is of no more use."""
        io.remove_aside(candidate.path)

    def time(
        self, before: Candidate, after: Candidate, *, threads: int | None = None, closely: bool = False
    ) -> Latency:
        """Time two models well enough to choose between them.

        Args:
            before: The model that the other one is compared with.
            after: The other one.
            threads: How many; None for what the user asked for.
            closely: Whether a short comparison left the choice open. Then more processes are timed.
        """
        bench = self.request.recipe.bench
        if bench is None:
            raise ValueError("the recipe does not measure latency")
        bench = bench if threads is None else msgspec.structs.replace(bench, threads=threads)
        processes, limit, precision = _CLOSELY if closely else _SHORTLY
        bench = msgspec.structs.replace(
            bench, processes=min(bench.processes, processes), budget_seconds=min(bench.budget_seconds, limit)
        )
        feeds, limits, closeness = self.bench_feeds(), self.request.limits, Closeness(precision)
        progress = self.request.progress
        return measurements.time_both(bench, before.path, after.path, feeds, limits, progress, closeness=closeness)

    def profile(self, candidate: Candidate) -> Coverage:
        """What the runtime executes for each node of a model, and how long; a model is profiled once."""
        if candidate.path not in self._profiles:
            self._profiles[candidate.path] = self._profiled(candidate)
        return self._profiles[candidate.path]

    def kernel_ns(self, candidate: Candidate) -> dict[str, float]:
        """The nanoseconds of each kernel of a model, by the name of its node: in its fastest run, others only add."""
        found: dict[str, float] = {}
        for number, cost in enumerate(self.profile(candidate).nodes):
            if cost.runs_ns:
                found[cost.node if cost.node not in found else f"{cost.node}#{number}"] = float(min(cost.runs_ns))
        return found

    def _profiled(self, candidate: Candidate) -> Coverage:
        spec = self.session_spec
        feeds, model, fewest = self.bench_feeds()[0], self.load(candidate), PROFILED_RUNS[0]
        found = placement.coverage(self._run.worker, candidate.path, model, feeds, spec=spec, runs=fewest)
        runs = min(PROFILED_RUNS[-1], _PROFILED_NS // max(1, sum(cost.median_ns for cost in found.nodes)))
        if runs <= fewest:
            return found
        return placement.coverage(self._run.worker, candidate.path, model, feeds, spec=spec, runs=runs)

    def loads(self, candidate: Candidate) -> bool:
        """Whether onnxruntime loads a candidate, and does not crash on it."""
        try:
            self._run.worker.open(candidate.path, SessionSpec(spin=False), what="candidate").close()
        except Refused:
            return False
        except WorkerDied:
            self.renew_worker()
            return False
        return True

    def renew_worker(self) -> None:
        """Start another worker in place of one that a model ended."""
        self._run.renew_worker()
        self._judges.clear()

    @property
    def worker(self) -> Worker:
        """The child process that opens candidates."""
        return self._run.worker

    @property
    def session_spec(self) -> SessionSpec:
        """How sessions are opened that are timed."""
        return settings.session_spec(self.request.recipe.bench)

    @property
    def scratch(self) -> Path:
        """The folder of candidates."""
        return self._run.scratch

    @property
    def judge(self) -> Judge:
        """Compares models with the input on the evaluation data, or on what stands in for them."""
        return self.judge_on(self.inputs())

    def error_of(self, candidate: Candidate, dataset: Dataset) -> float:
        """The squared error over the squared output of a candidate; infinite where it kills the child that runs it."""
        try:
            return self.judge_on(dataset).error(candidate.path)
        except WorkerDied as died:
            if died.reason != "signal":
                raise
            self.renew_worker()
            return math.inf

    def judge_on(self, dataset: Dataset, progress: Progress | None = None) -> Judge:
        """Compares models with the input on these data; it remembers what the input gives for them."""
        if id(dataset) not in self._judges:
            recipe = self.request.recipe
            self._judges[id(dataset)] = Judge(
                self._run.worker,
                self.input.path,
                dataset,
                settings.judging_spec(recipe),
                metrics=settings.metrics_of(recipe),
                heads=self.data.heads,
                progress=progress or self.request.progress,
            )
        return self._judges[id(dataset)]

    def _files(self, path: Path) -> list[Path]:
        """The model file, and that of its weights where there is one."""
        return sorted(path.parent.glob(f"{path.name}*"))

    def inputs(self) -> Dataset:
        """The evaluation data, or what stands in for them."""
        return datasets.inputs(self.data, self._run.worker, self.input.path)

    def bench_feeds(self) -> datasets.Feeds:
        """The samples that are timed."""
        if self._feeds is None:
            self._feeds = datasets.first_feeds(self.inputs(), datasets.BENCH_FEEDS)
        return self._feeds


@contextlib.contextmanager
def opened(request: Request) -> Iterator[Candidates]:
    """Open the input of `request` and its data, as a run does.

    Raises:
        ModeloptError: As `engine.optimize.run`.
    """
    with opening.opened(request) as run:
        yield Candidates(run)
