"""Finds out which groups of passes pay on this machine: each is kept only where the model gets measurably faster."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from modelopt import engine, graph, io, measuring
from modelopt.errors import InputError
from modelopt.measure.stats import Verdict
from modelopt.passes.base import Context
from modelopt.recipe import BenchSpec, Recipe, Step
from modelopt.report import Trial
from modelopt.runtime import cpu
from modelopt.runtime.runner import WorkerRunner
from modelopt.runtime.worker import Worker


def keep_if_faster(request: engine.Request, groups: Sequence[Step]) -> tuple[Recipe, tuple[Trial, ...]]:
    """The recipe with those of `groups` behind its steps that make the model faster, and what was measured.

    The groups are tried in order. Each is applied to the best model so far and timed beside it, in interleaved
    rounds as the recipe's bench section says; it stays only where the whole confidence interval lies on the fast
    side. What is chosen is a recipe like any other: `engine.run` applies, verifies and stores it.

    Raises:
        InputError: The recipe does not measure, or the model comes from stdin, which can be read only once.
        ModeloptError: As `engine.run`.
    """
    recipe = request.recipe
    if recipe.bench is None:
        raise InputError("nothing can be kept for being faster without a benchmark", hint="leave out --no-bench")
    if request.model == io.STDIO:
        raise InputError("a model on stdin cannot be tried more than once", hint="write it to a file first")
    with _workshop(request) as shop:
        best, best_path = recipe, shop.build(recipe).path
        trials = []
        for group in groups:
            candidate = dataclasses.replace(best, steps=(*best.steps, group))
            built = shop.build(candidate)
            if not built.rewrites:
                trials.append(Trial(group=_label(group), rewrites=0, ratio=None, kept=False))
                continue
            latency = measuring.time_both(
                recipe.bench, best_path, built.path, shop.feeds, request.limits, request.progress
            )
            kept = latency.ratio.verdict is Verdict.FASTER
            trials.append(Trial(group=_label(group), rewrites=built.rewrites, ratio=latency.ratio, kept=kept))
            if kept:
                best, best_path = candidate, built.path
        return best, tuple(trials)


def _label(group: Step) -> str:
    """What a group is called: its first pass; those behind it clean up."""
    return str(group.passes[0] if hasattr(group, "passes") else group)


@dataclass(frozen=True)
class _Built:
    path: Path
    rewrites: int


@dataclass
class _Workshop:
    request: engine.Request
    context: Context
    scratch: Path
    feeds: measuring.Feeds
    count: int = 0

    def build(self, recipe: Recipe) -> _Built:
        """Apply the recipe's steps to a fresh copy and write it; `rewrites` are those of the last step."""
        loaded = io.load(self.request.model, scratch=self.scratch, allow_hardlinks=self.request.allow_hardlinks)
        declared = graph.declared_values(loaded.model)
        engine.apply(recipe.steps[:-1], loaded.model, self.context, progress=self.request.progress)
        last = engine.apply(recipe.steps[-1:], loaded.model, self.context, progress=self.request.progress)
        graph.forget_shapes(loaded.model, keep=declared)
        self.count += 1
        path = self.scratch / f"candidate-{self.count}.onnx"
        io.write_aside(loaded.model, path)
        return _Built(path, sum(result.rewrites for result in last))


@contextlib.contextmanager
def _workshop(request: engine.Request) -> Iterator[_Workshop]:
    recipe = request.recipe
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="modelopt-")))
        loaded = io.load(request.model, scratch=scratch, allow_hardlinks=request.allow_hardlinks)
        data = measuring.open_all(recipe, graph.signature(loaded.model))
        worker = stack.enter_context(Worker(request.limits))
        worker.require((recipe.bench or BenchSpec()).provider)
        feeds = measuring.first_feeds(measuring.inputs(data, worker, loaded.path), measuring.BENCH_FEEDS)
        runner = WorkerRunner(limits=request.limits)
        stack.callback(runner.close)
        context = Context(runner=runner, target=cpu.resolve(recipe.target), seed=recipe.seed, progress=request.progress)
        yield _Workshop(request, context, scratch, feeds)
