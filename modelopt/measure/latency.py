"""The latency of several models, each in several fresh child processes, of which one runs at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.measure import environment, noise_floor, speed, stats, timing_warnings
from modelopt.measure.environment import Environment
from modelopt.measure.process_figures import Figure
from modelopt.measure.schedule import Slice, Timer, TimingPlan, Timings, by_process, in_turn, time_processes
from modelopt.measure.speed import Ratio
from modelopt.runtime import cores
from modelopt.runtime.limits import Limits
from modelopt.runtime.placement import Placement, find_placement
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session


class TimingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to open the sessions and how much to time.

    Attributes:
        session: Provider, threads, optimization; spinning as users get it.
        plan: Budget, precision, processes.
        baseline: How to open the first model's session, where that differs (another provider); None for `session`.
    """

    session: SessionSpec = SessionSpec()
    baseline: SessionSpec | None = None
    plan: TimingPlan = TimingPlan()


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one model. Raw samples are kept; every figure is derived from them.

    Attributes:
        path: The model file.
        samples_ns: Processes of rounds of nanoseconds per run.
        first_runs_ns: The first run after loading, which packs weights and fills caches; by process.
        loads_ns: Creating the session; by process.
        warmup_runs: Runs after the first and before the first round, in all processes.
        peaks_bytes: Peak resident memory, runtime and held inputs included; by process.
        wall_ns: How long all models together were timed.
        providers: Providers of the session, in order of preference.
        node_providers: Nodes that each provider really ran.
        env: The machine and software.
        noise_floor: A ratio to another model that is nearer to 1 than this is no difference.
        warnings: What a reader should know before quoting the figures.
    """

    path: str
    samples_ns: tuple[tuple[tuple[int, ...], ...], ...]
    first_runs_ns: tuple[int, ...]
    loads_ns: tuple[int, ...]
    warmup_runs: int
    peaks_bytes: tuple[int, ...]
    wall_ns: int = 0
    providers: tuple[str, ...]
    node_providers: dict[str, int]
    env: Environment
    noise_floor: float = speed.FLOOR
    warnings: tuple[str, ...]

    @property
    def runs_ns(self) -> list[int]:
        """All samples."""
        return [sample for rounds in self.samples_ns for samples in rounds for sample in samples]

    @property
    def percentiles_ns(self) -> dict[str, float | None]:
        """``p50`` to ``p99`` over all samples; None where there are too few."""
        return stats.percentiles(self.runs_ns)

    @property
    def median_ns(self) -> float:
        """The median over all samples."""
        return float(np.median(self.runs_ns))

    @property
    def latency(self) -> Figure:
        """Nanoseconds of a run, with the interval over processes."""
        return speed.latency(self.samples_ns)

    def times_as_fast_as(self, other: BenchResult) -> Ratio:
        """How many times as fast this model is as `other`, timed in the same `run_bench`.

        Raises:
            ValueError: They were not timed together.
        """
        return speed.paired_ratio(other.samples_ns, self.samples_ns, floor=self.noise_floor)


@dataclass(frozen=True)
class _Process:
    """A model in one fresh child, which is stopped whenever another one runs."""

    worker: Worker
    session: Session

    def time(self, asked: Slice) -> list[int]:
        samples = self.session.time(asked.runs, slot=asked.feed, lead_in=asked.lead_in)
        self.worker.pause()
        return samples

    def peak_bytes(self) -> int:
        found = self.worker.peak_bytes()
        self.worker.pause()
        return found


class _Entrant:
    """A model, how to open it, and what was measured at the start of its processes."""

    def __init__(self, path: Path, spec: SessionSpec, placement: Placement) -> None:
        self.path = path
        self.placement = placement
        self.providers: tuple[str, ...] = ()
        self.onnxruntime = ""
        self.first_runs_ns: list[int] = []
        self.loads_ns: list[int] = []
        self.peaks_bytes: list[int] = []
        self._spec = spec

    def enter(self, worker: Worker, feeds: Sequence[Mapping[str, np.ndarray]]) -> _Process:
        version = worker.versions()["onnxruntime"]
        session = worker.open(self.path, self._spec)
        for slot, feed in enumerate(feeds):
            worker.hold(slot, session.fitting(feed))
        (first_run_ns,) = session.time(1, slot=0)
        worker.pause()
        self.providers = session.info.providers
        self.onnxruntime = version
        self.first_runs_ns.append(first_run_ns)
        self.loads_ns.append(session.info.load_ns)
        return _Process(worker, session)


def run_bench(
    paths: Sequence[Path],
    feeds: Sequence[Mapping[str, np.ndarray]],
    spec: TimingSpec | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> list[BenchResult]:
    """Time models on the same inputs, in interleaved rounds, in several fresh processes each.

    Each model of a group gets a child process, which is stopped (SIGSTOP) while another one runs: idle onnxruntime
    threads spin and would slow the other by half. Before that, a profiled run in a separate child makes sure that the
    requested provider runs the model.

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
    spec = spec or TimingSpec()
    entrants = []
    for number, path in enumerate(paths):
        progress("loading models to time", number, len(paths))
        session = spec.baseline if number == 0 and spec.baseline is not None else spec.session
        entrants.append(_Entrant(path, session, find_placement(path, session, feeds[0], limits)))
    load = environment.load_average()

    def group(number: int) -> contextlib.AbstractContextManager[Timer]:
        return _group(entrants, feeds, number, spec.session.threads, limits)

    began_ns = time.monotonic_ns()
    timings = time_processes(group, len(entrants), len(feeds), spec.plan, time.monotonic_ns, progress)
    wall_ns = time.monotonic_ns() - began_ns
    version = entrants[0].onnxruntime
    env = environment.describe(threads=spec.session.threads, onnxruntime=version, load_average=load)
    floor = noise_floor.stored(env)
    found = [_result(entrant, timings, number, len(feeds), spec, env, floor) for number, entrant in enumerate(entrants)]
    return [msgspec.structs.replace(result, wall_ns=wall_ns) for result in found]


def _placed_alike(processes: Mapping[int, _Process], threads: int) -> Timer:
    """Time each slice of a round on the cores where the system ran the first slice.

    Otherwise a thread may stay on one core for the life of its process, and of two identical models one is up to a
    fifth slower. Where all cores are used onnxruntime binds its threads itself, except for the main thread, which gets
    the remaining core.
    """
    everywhere = cores.everywhere()
    if not 0 < threads < len(everywhere.main):
        for process in processes.values():
            pid = process.worker.pid
            cores.confine(pid, cores.without_bound(pid, everywhere), main_only=True)
        return lambda asked: processes[asked.model].time(asked)
    chosen = everywhere

    def timer(asked: Slice) -> list[int]:
        nonlocal chosen
        process = processes[asked.model]
        cores.confine(process.worker.pid, everywhere if asked.leads else chosen, main_only=threads == 1)
        samples = process.time(asked)
        if asked.leads:
            chosen = cores.last(process.worker.pid, threads)
        return samples

    return timer


@contextlib.contextmanager
def _group(
    entrants: Sequence[_Entrant],
    feeds: Sequence[Mapping[str, np.ndarray]],
    number: int,
    threads: int,
    limits: Limits | None,
) -> Iterator[Timer]:
    """One fresh process for each model; the order of their starts changes from group to group."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(limits)) for _ in entrants]
        places = range(len(entrants))
        opened = {place: entrants[place].enter(workers[place], feeds) for place in in_turn(number, len(entrants))}
        yield _placed_alike(opened, threads)
        for place in places:
            entrants[place].peaks_bytes.append(opened[place].peak_bytes())


def _result(
    entrant: _Entrant,
    timings: Sequence[Timings],
    number: int,
    n_feeds: int,
    spec: TimingSpec,
    env: Environment,
    floor: float,
) -> BenchResult:
    return BenchResult(
        path=str(entrant.path),
        samples_ns=tuple(tuple(tuple(each) for each in process.rounds) for process in timings[number]),
        first_runs_ns=tuple(entrant.first_runs_ns),
        loads_ns=tuple(entrant.loads_ns),
        warmup_runs=sum(process.warmup_runs for process in timings[number]),
        peaks_bytes=tuple(entrant.peaks_bytes),
        providers=entrant.providers,
        node_providers=entrant.placement.nodes,
        env=env,
        noise_floor=floor,
        warnings=tuple(_warnings(entrant, timings, number, n_feeds, spec, env)),
    )


def _warnings(
    entrant: _Entrant, timings: Sequence[Timings], number: int, n_feeds: int, spec: TimingSpec, env: Environment
) -> Iterator[str]:
    elsewhere = entrant.placement.warning()
    if elsewhere is not None:
        yield elsewhere
    yield from timing_warnings.of_environment(env)
    yield from timing_warnings.of_samples(timings[number], n_feeds=n_feeds, plan=spec.plan)
    first, own = by_process(timings[0]), by_process(timings[number])
    if len(timings) == 1:
        wide = timing_warnings.of_precision(speed.half_width(own), speed.LATENCY_PRECISION, spec.plan, len(own))
    else:
        wanted = speed.wanted_half_width(speed.log_ratios(first, own), spec.plan.precision)
        wide = timing_warnings.of_precision(speed.half_width(first, own), wanted, spec.plan, len(own))
    if wide is not None and (number > 0 or len(timings) == 1):
        yield wide
