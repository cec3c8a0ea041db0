"""The order and length of timing slices: interleaved rounds that stop when the figures are good enough.

It reads no clock: a `Timer` runs a model and says how long each run took, so tests drive it with a simulated one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import msgspec

from modelopt.measure.stats import half_width
from modelopt.progress import Progress, silent

Timer = Callable[[int, int, int], list[int]]
"""``timer(model, feed, runs)``: run `model` `runs` times on `feed`; nanoseconds for each run."""

_WARM_BATCHES = 3
_WARM_AGREEMENT = 0.05


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to time.

    Attributes:
        budget_ns: Nanoseconds of runs, warm-up excluded, for all models together; `min_rounds` are run in any case.
        warmup_ns: Nanoseconds of warm-up runs per model, at most.
        precision: Stop when the interval's half-width, relative, is below this.
        min_rounds: Rounds to run whatever the budget.
        max_rounds: Rounds after which to stop whatever the precision.
        slice_ns: How long a model's slice of a round should take: long against a switch of processes, short against
            the drift of a machine.
        max_runs: Runs in a slice, at most.
    """

    budget_ns: int = 10_000_000_000
    warmup_ns: int = 1_000_000_000
    precision: float = 0.02
    min_rounds: int = 10
    max_rounds: int = 200
    slice_ns: int = 30_000_000
    max_runs: int = 500


@dataclass
class Timings:
    """What was measured of one model.

    Attributes:
        warmup_runs: Runs before the first round.
        warmup_ns: Nanoseconds that they took.
        settled: Whether the warm-up ended because the latency was stable.
        runs_per_round: Runs that fill a slice.
        rounds: One list of nanoseconds per round.
    """

    warmup_runs: int = 0
    warmup_ns: int = 0
    settled: bool = False
    runs_per_round: int = 1
    rounds: list[list[int]] = field(default_factory=list)


def time_rounds(timer: Timer, n_models: int, n_feeds: int, plan: Plan, progress: Progress = silent) -> list[Timings]:
    """Warm each model up, then time all of them in interleaved rounds.

    A round times every model on one feed, the same for all, and the next round takes the next feed: the ratio inside a
    round compares like with like. The order rotates from round to round, so that a linear drift favours nobody. It
    stops after a whole turn of orders and feeds, when each ratio to the first model (or, with a single model, its
    latency) is known to `plan.precision`, or when the budget is spent.

    Args:
        timer: Runs and times.
        n_models: Models 0 to n-1.
        n_feeds: Feeds 0 to n-1.
        plan: How much.
        progress: Told of nanoseconds spent, of the budget.
    """
    timings = [_warm_up(timer, model, n_feeds, plan) for model in range(n_models)]
    spent_ns = 0
    for number in range(plan.max_rounds):
        for position in range(n_models):
            model = (number + position) % n_models
            samples = timer(model, number % n_feeds, timings[model].runs_per_round)
            timings[model].rounds.append(samples)
            spent_ns += sum(samples)
        progress("timing", min(spent_ns, plan.budget_ns), plan.budget_ns)
        done = number + 1
        if done < max(plan.min_rounds, 2):
            continue
        if spent_ns >= plan.budget_ns:
            break
        if done % n_models == 0 and done % n_feeds == 0 and worst_half_width(timings) < plan.precision:
            break
    return timings


def worst_half_width(timings: Sequence[Timings]) -> float:
    """The relative half-width of the least certain figure: a ratio to the first model, or the only model's latency."""
    first, *others = [each.rounds for each in timings]
    if not others:
        return half_width(first)
    return max(half_width(first, other) for other in others)


def _warm_up(timer: Timer, model: int, n_feeds: int, plan: Plan) -> Timings:
    """Run until three batches in a row agree within 5 %, or the warm-up budget is spent; find the runs per round."""
    timings = Timings()
    medians: list[float] = []
    while timings.warmup_ns < plan.warmup_ns and not timings.settled:
        samples = timer(model, len(medians) % n_feeds, timings.runs_per_round)
        medians.append(max(1.0, median(samples)))
        timings.warmup_ns += max(1, sum(samples))
        timings.warmup_runs += len(samples)
        recent = medians[-_WARM_BATCHES * n_feeds :: n_feeds]  # the same feed each time
        timings.settled = len(recent) == _WARM_BATCHES and max(recent) <= min(recent) * (1 + _WARM_AGREEMENT)
        latest = medians[-n_feeds:]
        timings.runs_per_round = max(1, min(plan.max_runs, round(plan.slice_ns / median(latest))))
    return timings
