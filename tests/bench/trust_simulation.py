"""Comparisons drawn from recorded pairs of processes, judged as `modelopt bench` judges them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modelopt.measure import speed
from modelopt.measure.resample import bootstrap, trimmed_mean
from modelopt.measure.schedule import TimingPlan, processes_wanted

_OLD_FLOOR = 0.02


class Simulated(NamedTuple):
    """Shares of the simulated comparisons, and the pairs that one took on average."""

    false: float
    found: float
    covered: float
    pairs: float


def simulate(logs: np.ndarray, plan: TimingPlan, most: int, times: int, *, center: float = 0.0) -> Simulated:
    """Draw `times` comparisons from the log ratios of recorded pairs.

    Which of a pair is called the first is drawn too, so that the truth is `center` and nothing else.

    Args:
        logs: float64[pairs], moved by `center`.
        plan: The rule's figures.
        most: Pairs that the budget allows.
        times: How many comparisons to draw.
        center: The true log ratio.
    """
    rng = np.random.default_rng(0)
    centered = logs - center
    most = min(most, plan.max_processes)
    false = found = covered = pairs = 0
    for _ in range(times):
        drawn = center + rng.choice(centered, most) * rng.choice([-1.0, 1.0], most)
        n = _stop(drawn, plan, most)
        as_samples = [[[round(1e9 * math.exp(each))]] * 2 for each in drawn[:n]]
        ratio = speed.paired_ratio(as_samples, [[[10**9]] * 2] * n)
        decided = ratio.verdict in {speed.Verdict.FASTER, speed.Verdict.SLOWER}
        false += decided
        found += ratio.verdict is speed.Verdict.FASTER
        covered += ratio.low <= math.exp(center) <= ratio.high
        pairs += n
    return Simulated(false / times, found / times, covered / times, pairs / times)


def _stop(drawn: np.ndarray, plan: TimingPlan, most: int) -> int:
    """After how many pairs the rule stops."""
    n = 1
    while n < most and n < (wanted := processes_wanted([drawn[:n]], plan)):
        n = min(wanted, n + 1 if n < plan.processes else wanted)
    return min(n, most)


def within_one_process(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> bool:
    """Whether the method of before, an interval over the rounds of one pair of processes, calls them different."""
    logs = np.log(speed.round_medians(a)) - np.log(speed.round_medians(b, like=a))
    point = float(trimmed_mean(logs))
    low, high = bootstrap(len(logs), lambda rows: trimmed_mean(logs[rows]), 0.95, 1000, 0)
    return abs(point) > math.log(1 + _OLD_FLOOR) and not low <= 0 <= high
