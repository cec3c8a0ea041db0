"""The order and length of timed runs: several fresh processes of each model, and interleaved rounds inside them.

A `Group` starts processes and a `Timer` runs models and says how long each run took, so tests drive both with a
simulated machine and clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np

from modelopt.core.progress import Progress, silent
from modelopt.measure import speed


class Slice(NamedTuple):
    """Runs of one model in a row.

    Attributes:
        model: Which model.
        feed: On which feed.
        runs: How many runs to time.
        lead_in: Untimed runs before these.
        leads: Whether it is the first slice of a round; the others are compared with it.
    """

    model: int
    feed: int
    runs: int
    lead_in: int = 0
    leads: bool = True


Timer = Callable[[Slice], list[int]]
"""Runs a slice; nanoseconds for each of its runs."""

Group = Callable[[int], AbstractContextManager[Timer]]
"""``group(number)``: start one fresh process for each model, and end them afterwards."""

_WARM_BATCHES = 3
_WARM_AGREEMENT = 0.05
_LEAD_IN_NS = 4_000_000
_LONG_RUN_NS = 20_000_000
_OVERTIME = 3
_LOOKS = (12, 18)  # processes after which a ratio that has to reach a limit is judged again
_SHARE = 2


class TimingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to time.

    Attributes:
        budget_ns: Wall time, starts of processes included; one process of each model is timed in any case.
        warmup_ns: Nanoseconds of warm-up runs per process, at most.
        precision: The wanted relative half-width of the interval.
        enough: A ratio whose whole interval is at least this needs no more precision; None where each does.
        processes: Fresh processes of each model, at least. Their spread says how many more `precision` needs.
        max_processes: Fresh processes of each model, at most, whatever the precision.
        process_ns: Nanoseconds of slices per process, as far as `min_rounds` allow; more where processes take long to
            start and to warm up, so that a third of the time at most goes into that.
        min_rounds: Rounds in each process, at least.
        max_rounds: Rounds in each process, at most.
        slice_ns: How long a model's slice of a round should take. The machine's speed drifts between two slices, so
            short slices compare better than long ones.
        max_runs: Runs in a slice, at most.
    """

    budget_ns: int = 60_000_000_000
    warmup_ns: int = 300_000_000
    precision: float = 0.02
    enough: float | None = None
    processes: int = speed.FIRST
    max_processes: int = 30
    process_ns: int = 300_000_000
    min_rounds: int = 5
    max_rounds: int = 100
    slice_ns: int = 4_000_000
    max_runs: int = 1000


@dataclass
class ProcessTimings:
    """What was measured of one model in one process.

    Attributes:
        warmup_runs: Runs before the first round.
        warmup_ns: Nanoseconds that they took.
        settled: Whether the warm-up ended because the latency was stable.
        run_ns: Nanoseconds that a run took at the end of the warm-up.
        runs_per_round: Runs that fill a slice.
        rounds: One list of nanoseconds per round.
    """

    warmup_runs: int = 0
    warmup_ns: int = 0
    settled: bool = False
    run_ns: float = 1.0
    runs_per_round: int = 1
    rounds: list[list[int]] = field(default_factory=list)

    @property
    def lead_in(self) -> int:
        """Untimed runs at the start of a slice, which fill the caches again after the other models' slices.

        After 1 ms of them a model that takes 2 ms still ran 5 to 8 % slower than in a loop by itself.
        """
        return 0 if self.run_ns >= _LONG_RUN_NS else math.ceil(_LEAD_IN_NS / self.run_ns)

    @property
    def slice_ns(self) -> float:
        """Nanoseconds of a slice."""
        return (self.lead_in + self.runs_per_round) * self.run_ns


Timings = list[ProcessTimings]
"""What was measured of one model, by process."""


def time_processes(
    group: Group,
    n_models: int,
    n_feeds: int,
    plan: TimingPlan,
    clock: Callable[[], int],
    progress: Progress = silent,
) -> list[Timings]:
    """Time models in several fresh processes each, and in interleaved rounds within a group of processes.

    A process keeps its memory layout, and with it a speed of its own. Only several processes show how much that changes
    a figure. `plan.processes` groups are timed first. Their spread fixes, once, how many groups give
    `plan.precision` (Stein 1945, "A two-sample test for a linear hypothesis whose power is independent of the
    variance"): a check after every group that stops at a narrow interval would give intervals that are too narrow. A
    difference that is many times as large as its uncertainty ends the timing after five groups.

    Args:
        group: Starts a process for each model.
        n_models: Models 0 to n-1; ratios are to the first.
        n_feeds: Feeds 0 to n-1, which rounds take in turn.
        plan: How much.
        clock: Gives nanoseconds; the budget starts at its first call.
        progress: Told of nanoseconds spent, of the budget.

    Returns:
        What was measured, by model.
    """
    started = clock()
    found: list[Timings] = [[] for _ in range(n_models)]
    precision = plan.precision if n_models > 1 else max(plan.precision, speed.LATENCY_PRECISION)
    rule = msgspec.structs.replace(plan, precision=precision)
    wanted, longest_ns = min(speed.FEWEST, plan.processes), 0
    for number in range(max(plan.processes, plan.max_processes)):
        began = clock()
        with group(number) as timer:
            warm = {model: _warm_up(timer, model, n_feeds, plan) for model in in_turn(number, n_models)}
            share_ns = max(plan.process_ns, _SHARE * (clock() - began) // n_models)
            _time_rounds(timer, warm, n_feeds, plan, share_ns, lambda: clock() - started > plan.budget_ns)
        for model, timings in warm.items():
            found[model].append(timings)
        now = clock()
        longest_ns = max(longest_ns, now - began)
        progress("timing", min(now - started, plan.budget_ns), plan.budget_ns)
        done = number + 1
        if done >= wanted:
            wanted = processes_wanted(_logs(found), rule)
        if done >= wanted or now - started + longest_ns > plan.budget_ns:
            break
    return found


def processes_wanted(logs: Sequence[np.ndarray], plan: TimingPlan) -> int:
    """How many processes of each model to time, from what the ones so far say; at that number it is asked again.

    Args:
        logs: The logarithms of each wanted ratio in the pairs of processes, float64[processes].
        plan: The fewest and the most processes, and the precision.
    """
    for look in dict.fromkeys((min(speed.FEWEST, plan.processes), plan.processes)):
        if len(logs[0]) < look:
            return plan.processes
        if all(speed.is_clear(each[:look]) or _is_enough(each[:look], plan) for each in logs):
            return look
    if plan.enough is not None:
        return _until_known(logs, plan)
    needed = max(speed.processes_needed(each[: plan.processes], plan.precision) for each in logs)
    return max(plan.processes, min(plan.max_processes, needed))


def _until_known(logs: Sequence[np.ndarray], plan: TimingPlan) -> int:
    """How many processes to time until it is known whether each ratio is at least `plan.enough`.

    It is asked at a few numbers of processes only: an interval that is looked at after each is wrong more often.
    """
    done = len(logs[0])
    if all(_is_enough(each, plan) or _is_too_little(each, plan) for each in logs):
        return done
    return next((look for look in _LOOKS if look > done), plan.max_processes)


def _is_too_little(logs: np.ndarray, plan: TimingPlan) -> bool:
    """Whether the whole interval of a ratio is below what is enough."""
    return plan.enough is not None and speed.is_at_least(-logs, 1 / plan.enough)


def _is_enough(logs: np.ndarray, plan: TimingPlan) -> bool:
    return plan.enough is not None and speed.is_at_least(logs, plan.enough)


def in_turn(turn: int, n_models: int) -> list[int]:
    """The order of models in a turn: each is first in turn, and of two models each is earlier in half of them."""
    first = turn // 2 if n_models > 2 else 0
    order = [(first + place) % n_models for place in range(n_models)]
    return order[::-1] if turn % 2 else order


def by_process(timings: Timings) -> speed.Processes:
    """The samples alone."""
    return [each.rounds for each in timings]


def _logs(found: Sequence[Timings]) -> list[np.ndarray]:
    """The logarithms of the ratios to the first model, or of a single model's latency around their mean."""
    first, *others = [by_process(timings) for timings in found]
    if others:
        return [speed.log_ratios(first, other) for other in others]
    logs = speed.log_latencies(first)
    return [logs - logs.mean()]


def _time_rounds(
    timer: Timer,
    warm: dict[int, ProcessTimings],
    n_feeds: int,
    plan: TimingPlan,
    share_ns: int,
    is_late: Callable[[], bool],
) -> None:
    """Time all models in rounds.

    A round times every model on one feed, the same for all: the ratio inside a round compares like with like. The order
    changes from round to round, so that a linear drift cancels. Where other programs make the runs many times as long
    as during the warm-up, the rounds end early, after all feeds had a turn.
    """
    order = list(warm)
    longest_ns = max(each.slice_ns for each in warm.values())
    rounds = min(plan.max_rounds, max(plan.min_rounds, round(share_ns / longest_ns)))
    spent_ns = 0
    for turn in range(math.ceil(rounds / n_feeds) * n_feeds):
        enough = turn >= plan.min_rounds and turn % n_feeds == 0
        if enough and (is_late() or spent_ns > _OVERTIME * len(order) * share_ns):
            break
        for position, place in enumerate(in_turn(turn, len(order))):
            model = order[place]
            timings = warm[model]
            feed, leads = turn % n_feeds, position == 0
            samples = timer(Slice(model, feed, timings.runs_per_round, timings.lead_in, leads=leads))
            timings.rounds.append(samples)
            spent_ns += sum(samples)


def _warm_up(timer: Timer, model: int, n_feeds: int, plan: TimingPlan) -> ProcessTimings:
    """Run until three batches in a row agree within 5 %, or the warm-up budget is spent; find the runs per round.

    At least one run is made, to know how long a run takes.
    """
    timings = ProcessTimings()
    medians: list[float] = []
    while not medians or (timings.warmup_ns < plan.warmup_ns and not timings.settled):
        samples = timer(Slice(model, len(medians) % n_feeds, timings.runs_per_round))
        medians.append(max(1.0, median(samples)))
        timings.warmup_ns += max(1, sum(samples))
        timings.warmup_runs += len(samples)
        recent = medians[-_WARM_BATCHES * n_feeds :: n_feeds]  # the same feed each time
        timings.settled = len(recent) == _WARM_BATCHES and max(recent) <= min(recent) * (1 + _WARM_AGREEMENT)
        timings.run_ns = median(medians[-n_feeds:])
        timings.runs_per_round = max(1, min(plan.max_runs, round(plan.slice_ns / timings.run_ns)))
    return timings
