"""Latency of models beside each other: interleaved rounds in child processes that never run at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelopt.errors import InputError
from modelopt.measure import cautions, environment, stats
from modelopt.measure.environment import Environment
from modelopt.measure.schedule import Plan, Timings, time_rounds
from modelopt.measure.stats import Ratio
from modelopt.progress import Progress, silent
from modelopt.runtime.placement import Placement, find_placement
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Limits, Session, Worker

_LEAD_IN_SHARE = 10


class BenchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to time and how much.

    Attributes:
        session: Provider, threads, optimization; spinning as users get it.
        plan: Budget, precision, rounds.
        baseline: How to open the first model's session, where that differs (another provider); None as `session`.
    """

    session: SessionSpec = SessionSpec()
    baseline: SessionSpec | None = None
    plan: Plan = Plan()


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one model. Raw samples are kept; every figure is derived from them.

    Attributes:
        path: The model file.
        samples_ns: Rounds of nanoseconds per run.
        cold_ns: The first run after loading: it packs weights and fills caches.
        load_ns: Creating the session.
        warmup_runs: Runs after the first and before the first round.
        peak_bytes: Peak resident memory of the child process, runtime and held inputs included.
        providers: Providers of the session, in order of preference.
        node_providers: Nodes that each provider really ran.
        env: The machine and software.
        warnings: What a reader should know before quoting the figures.
    """

    path: str
    samples_ns: tuple[tuple[int, ...], ...]
    cold_ns: int
    load_ns: int
    warmup_runs: int
    peak_bytes: int
    providers: tuple[str, ...]
    node_providers: dict[str, int]
    env: Environment
    warnings: tuple[str, ...]

    @property
    def percentiles_ns(self) -> dict[str, float | None]:
        """``p50`` to ``p99`` over all samples; None where there are too few."""
        return stats.percentiles([sample for each in self.samples_ns for sample in each])

    @property
    def median_ns(self) -> float:
        """The median over all samples."""
        return float(np.median([sample for each in self.samples_ns for sample in each]))

    def times_as_fast_as(self, other: BenchResult) -> Ratio:
        """How many times as fast this model is as `other`, timed in the same `run_bench`.

        Raises:
            ValueError: They were not timed together.
        """
        return stats.paired_ratio(other.samples_ns, self.samples_ns)


@dataclass(frozen=True)
class _Entrant:
    """A model in its own child, paused whenever another runs."""

    path: Path
    worker: Worker
    session: Session
    placement: Placement
    cold_ns: int

    def time(self, feed: int, runs: int) -> list[int]:
        lead_in = -(-runs // _LEAD_IN_SHARE) if runs > 1 else 0  # one long run refills the caches by itself
        samples = self.session.time(runs, slot=feed, lead_in=lead_in)
        self.worker.pause()
        return samples


def run_bench(
    paths: Sequence[Path],
    feeds: Sequence[Mapping[str, np.ndarray]],
    spec: BenchSpec | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> list[BenchResult]:
    """Time models on the same inputs, in interleaved rounds.

    Each model gets a child process, which is stopped (SIGSTOP) while another one runs: idle onnxruntime threads spin
    and would slow a neighbour by half. Before that, a profiled run in a child of its own makes sure that the requested
    provider runs the model at all.

    Args:
        paths: The models, already through io's gate; ratios are to the first.
        feeds: Inputs by name; rounds take them in turn. They are copied into each child.
        spec: Provider, threads, budget.
        limits: What each child may use.
        progress: Told what is being done.

    Returns:
        One result per path, in order.

    Raises:
        EnvironmentLacks: The provider is not there, or it ran no node of a model.
        InputError: There is nothing to feed, or no provider has that name.
        Refused: onnxruntime does not load or run a model.
        ValueError: There is no path.
        WorkerDied: A child crashed or exceeded its limits.
    """
    if not paths:
        raise ValueError("no model to time")
    if not feeds:
        raise InputError("there is no input to time the model on", hint="give data, or time on random inputs")
    spec = spec or BenchSpec()
    with contextlib.ExitStack() as stack:
        entrants: list[_Entrant] = []
        for number, path in enumerate(paths):
            progress(f"loading {path.name}", number, len(paths))
            session = spec.baseline if number == 0 and spec.baseline is not None else spec.session
            placement = find_placement(path, session, feeds[0], limits)
            worker = stack.enter_context(Worker(limits))
            entrants.append(_enter(worker, path, feeds, session, placement))
        env = _environment(entrants[0].worker, spec)
        timings = time_rounds(
            lambda model, feed, runs: entrants[model].time(feed, runs), len(entrants), len(feeds), spec.plan, progress
        )
        return [_result(entrant, timings, number, len(feeds), spec, env) for number, entrant in enumerate(entrants)]


def _environment(worker: Worker, spec: BenchSpec) -> Environment:
    version = worker.versions()["onnxruntime"]
    worker.pause()
    return environment.describe(threads=spec.session.threads, onnxruntime=version)


def _enter(
    worker: Worker,
    path: Path,
    feeds: Sequence[Mapping[str, np.ndarray]],
    spec: SessionSpec,
    placement: Placement,
) -> _Entrant:
    session = worker.open(path, spec)
    for slot, feed in enumerate(feeds):
        worker.hold(slot, session.fitting(feed))
    (cold_ns,) = session.time(1, slot=0)
    worker.pause()
    return _Entrant(path, worker, session, placement, cold_ns)


def _result(
    entrant: _Entrant, timings: Sequence[Timings], number: int, n_feeds: int, spec: BenchSpec, env: Environment
) -> BenchResult:
    timing = timings[number]
    peak_bytes = entrant.worker.peak_bytes()
    entrant.worker.pause()
    return BenchResult(
        path=str(entrant.path),
        samples_ns=tuple(tuple(each) for each in timing.rounds),
        cold_ns=entrant.cold_ns,
        load_ns=entrant.session.info.load_ns,
        warmup_runs=timing.warmup_runs,
        peak_bytes=peak_bytes,
        providers=entrant.session.info.providers,
        node_providers=entrant.placement.nodes,
        env=env,
        warnings=tuple(_warnings(entrant, timings, number, n_feeds, spec, env)),
    )


def _warnings(
    entrant: _Entrant, timings: Sequence[Timings], number: int, n_feeds: int, spec: BenchSpec, env: Environment
) -> Iterator[str]:
    elsewhere = entrant.placement.warning()
    if elsewhere is not None:
        yield elsewhere
    timing, first = timings[number], timings[0]
    yield from cautions.of_environment(env)
    yield from cautions.of_samples(
        timing.rounds, n_feeds=n_feeds, settled=timing.settled, warmup_ns=timing.warmup_ns, plan=spec.plan
    )
    alone = len(timings) == 1
    if alone or number > 0:
        width = stats.half_width(first.rounds, None if alone else timing.rounds)
        wide = cautions.of_precision(width, spec.plan)
        if wide is not None:
            yield wide
