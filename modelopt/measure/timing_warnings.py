"""Warnings about latencies, each with the flag or the step that helps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from modelopt.core.plural import counted
from modelopt.measure.environment import Environment
from modelopt.measure.schedule import ProcessTimings, TimingPlan
from modelopt.measure.speed import FEWEST, Processes, round_medians
from modelopt.measure.stats import percentiles, samples_needed

_NOISY = 0.15
_FAR = 10.0
_MANY_OUTLIERS = 0.02
_MAD_TO_SIGMA = 1.4826
_LONGEST_BUDGET_S = 600
_FIXED_GOVERNORS = frozenset({"performance", "userspace"})


def of_environment(env: Environment) -> Iterator[str]:
    """Warnings about the machine, independent of what is measured."""
    if env.load_average is not None and env.load_average > env.cores:
        yield (
            f"other programs are running: the load average was {env.load_average:.1f} on {env.cores} usable cores "
            "before the bench: end them and repeat"
        )
    if env.threads > env.cores:
        yield f"{env.threads} threads wait for each other on {env.cores} usable cores: --threads {env.cores}"
    if env.governor is not None and env.governor not in _FIXED_GOVERNORS:
        yield (
            f"the CPU's frequency is not fixed (governor '{env.governor}'): sudo cpupower frequency-set -g performance"
        )


def of_samples(processes: Sequence[ProcessTimings], *, n_feeds: int, plan: TimingPlan) -> Iterator[str]:
    """Warnings about the samples of one model.

    Args:
        processes: What was measured in each; round r of each was timed on feed r modulo `n_feeds`.
        n_feeds: How many feeds took turns.
        plan: What was asked for.
    """
    if 2 * sum(not each.settled for each in processes) > len(processes):
        warmup_ns = float(np.median([each.warmup_ns for each in processes]))
        still = f"the latency was still changing after {warmup_ns / 1e9:.2g} s of warm-up"
        yield f"{still if warmup_ns else 'there was no warm-up'}: --warmup {_seconds(4 * plan.warmup_ns)}"
    spread = _spread([round_medians(each.rounds)[feed::n_feeds] for each in processes for feed in range(n_feeds)])
    if spread > _NOISY:
        yield f"noisy: rounds vary by {spread:.0%} (standard deviation): end other programs and repeat"
    n = sum(len(samples) for each in processes for samples in each.rounds)
    far = sum(_outliers(each.rounds, n_feeds) for each in processes)
    if far > _MANY_OUTLIERS * n:
        yield f"{far} of {n} samples are far outliers: other programs used the machine: end them and repeat"


def of_percentiles(processes: Processes) -> str | None:
    """Names the percentiles with too few samples, and the number of processes that would give the first of them."""
    samples = [each for rounds in processes for samples in rounds for each in samples]
    found = percentiles(samples)
    missing = [name for name, value in found.items() if value is None]
    if not missing:
        return None
    needed = -(-samples_needed(missing[0]) * len(processes) // len(samples))
    return f"{len(samples)} samples are too few for {', '.join(missing)}: --processes {needed} gives {missing[0]}"


def of_precision(half_width: float, wanted: float, plan: TimingPlan, processes: int) -> str | None:
    """Warns that the interval is wider than asked for, and names the budget that would narrow it."""
    few = "" if processes >= min(FEWEST, plan.processes) else f" from {counted(processes, 'process')}"
    if half_width <= wanted:
        return None
    needed_ns = plan.budget_ns * (half_width / wanted) ** 2  # the width falls with the root of the processes
    budget = _seconds(needed_ns)
    helps = f": --budget {budget}" if budget * 1e9 > plan.budget_ns else ""
    return f"the interval is ±{half_width:.1%}{few}, wider than ±{wanted:.1%}{helps}"


def _seconds(nanoseconds: float) -> int:
    """Whole seconds to ask for, at least one."""
    return max(1, min(_LONGEST_BUDGET_S, math.ceil(nanoseconds / 1e9)))


def _spread(groups: Sequence[np.ndarray]) -> float:
    """The relative standard deviation within groups, pooled."""
    relative = np.concatenate([group / group.mean() - 1 for group in groups if len(group) > 1] or [np.zeros(1)])
    return float(np.sqrt(np.mean(relative**2)))


def _outliers(rounds: Sequence[Sequence[int]], n_feeds: int) -> int:
    """Samples above their feed's median by half of it and by ten robust standard deviations (from the MAD)."""
    count = 0
    for feed in range(min(n_feeds, len(rounds))):
        samples = np.concatenate([np.asarray(each, np.float64) for each in rounds[feed::n_feeds]])
        middle = np.median(samples)
        deviation = _MAD_TO_SIGMA * np.median(np.abs(samples - middle))
        count += int(np.sum(samples - middle > max(_FAR * deviation, middle / 2)))
    return count
