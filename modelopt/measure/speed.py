"""How many times as fast one model is as another, with the uncertainty that other processes and rounds would show.

Nothing here reads a clock: the same samples give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from statistics import median

import msgspec
import numpy as np

from modelopt.measure.process_figures import Figure, of_logs
from modelopt.measure.resample import student_quantile, trimmed_mean
from modelopt.measure.stats import CONFIDENCE

FLOOR = 0.01
"""A ratio nearer to 1 than this is no difference: an error that is the same in all processes is not in the interval."""

ALIKE = 0.05
"""Two models have no measurable difference in speed where the whole interval is nearer to 1 than this."""

FEWEST = 5
"""From this many pairs of processes on, their own spread gives the interval."""

FIRST = 8
"""The spread of this many pairs of processes decides how many are needed."""

PROCESS_SPREAD = 0.03
"""The assumed standard deviation of the ratio of two processes of one model, where too few were timed to measure it.

It was 1 to 3 % on the machines that `tests/bench/trust.py` ran on. Memory is laid out differently in each process
(Mytkowicz et al. 2009, "Producing wrong data without doing anything obviously wrong!").
"""

LATENCY_PRECISION = 0.05
"""The relative half-width that is wanted of a latency by itself, which moves with the machine."""

Processes = Sequence[Sequence[Sequence[int]]]
"""Processes of rounds of samples in nanoseconds."""

_CLEAR = 4.0


class Verdict(Enum):
    """The conclusion from a ratio of latencies."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no measurable difference"
    UNDECIDED = "not enough to decide"


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast b is as a: 1.45 means that a takes 1.45 times as long.

    Attributes:
        point: The estimate.
        low: Lower end of the confidence interval.
        high: Upper end. The interval covers what differs between processes and between rounds.
        verdict: The conclusion about b.
        processes: How many pairs of fresh processes it comes from.
    """

    point: float
    low: float
    high: float
    verdict: Verdict
    processes: int


def paired_ratio(a_ns: Processes, b_ns: Processes, *, floor: float = FLOOR) -> Ratio:
    """How many times as fast b is as a, from pairs of fresh processes whose rounds were interleaved.

    A round gives the ratio of its two medians, so a drift that is slow against a round cancels. A pair of processes
    gives the 20 % trimmed mean of its rounds' log ratios. The estimate is the mean over pairs, and the interval is
    Student's t over pairs: the process is the level at which a measurement repeats independently (Kalibera & Jones
    2013, "Rigorous benchmarking in reasonable time"), and rounds of one process say nothing of the next one. A
    bootstrap over five to ten pairs has to be widened to the same t quantiles to keep its coverage, and gains nothing.

    With fewer than five pairs their spread is hardly known; the interval then takes at least `PROCESS_SPREAD` for it.

    Args:
        a_ns: Processes of rounds of samples in nanoseconds; a round holds at least one.
        b_ns: As many processes of as many rounds, each taken beside the round of `a_ns` at its position.
        floor: A ratio nearer to 1 than this is no difference, whatever the interval says.

    Raises:
        ValueError: There is no process, or not as many of a as of b, or a process has fewer than two rounds.
    """
    point, half = _mean_interval_of_logs(log_ratios(a_ns, b_ns), _rounds_error(a_ns, b_ns))
    ratio, low, high = math.exp(point), math.exp(point - half), math.exp(point + half)
    return Ratio(point=ratio, low=low, high=high, verdict=_verdict(ratio, low, high, floor), processes=len(a_ns))


def _verdict(ratio: float, low: float, high: float, floor: float) -> Verdict:
    if low > 1 and ratio > 1 + floor:
        return Verdict.FASTER
    if high < 1 and ratio < 1 / (1 + floor):
        return Verdict.SLOWER
    alike = max(ALIKE, floor)
    return Verdict.NO_DIFFERENCE if 1 / (1 + alike) <= low and high <= 1 + alike else Verdict.UNDECIDED


def latency(samples_ns: Processes) -> Figure:
    """The latency in nanoseconds, from fresh processes: the mean of their logarithms, and its interval.

    Raises:
        ValueError: There is no process, or one has fewer than two rounds.
    """
    logs = log_latencies(samples_ns)
    return of_logs(logs, _mean_interval_of_logs(logs, _rounds_error(samples_ns, None))[1])


def half_width(a_ns: Processes, b_ns: Processes | None = None) -> float:
    """Half the relative width of the interval around a's latency, or around the ratio a/b; 0.02 is ±2 %."""
    logs = log_latencies(a_ns) if b_ns is None else log_ratios(a_ns, b_ns)
    return _mean_interval_of_logs(logs, _rounds_error(a_ns, b_ns))[1]


def log_ratios(a_ns: Processes, b_ns: Processes) -> np.ndarray:
    """For each pair of processes the logarithm of how many times as fast b is as a, float64[processes].

    Raises:
        ValueError: See `paired_ratio`.
    """
    if not a_ns or len(a_ns) != len(b_ns):
        raise ValueError(f"{len(a_ns)} and {len(b_ns)} processes")
    return np.array([float(trimmed_mean(_log_rounds(a, b))) for a, b in zip(a_ns, b_ns, strict=True)])


def log_latencies(a_ns: Processes) -> np.ndarray:
    """For each process the logarithm of its latency in nanoseconds, float64[processes].

    Raises:
        ValueError: There is no process, or one has fewer than two rounds.
    """
    if not a_ns:
        raise ValueError("0 processes")
    return np.array([float(trimmed_mean(_log_rounds(a, None))) for a in a_ns])


def processes_needed(logs: np.ndarray, precision: float) -> int:
    """How many processes give an interval as narrow as is wanted, from the spread of the first ones (Stein 1945)."""
    n = len(logs)
    if n < 2:
        return 1
    wanted = wanted_half_width(logs, precision)
    return math.ceil((student_quantile((1 + CONFIDENCE) / 2, n - 1) * float(logs.std(ddof=1)) / wanted) ** 2)


def wanted_half_width(logs: np.ndarray, precision: float) -> float:
    """`precision`, or a quarter of a difference that is large: a large difference needs less precision."""
    return max(precision, abs(float(logs.mean())) / _CLEAR)


def is_clear(logs: np.ndarray) -> bool:
    """Whether a difference is so many times as large as its uncertainty that more processes would add nothing."""
    if len(logs) < 2:
        return False
    point, half = _mean_interval_of_logs(logs, 0.0)
    return abs(point) > max(_CLEAR * half, math.log(1 + FLOOR))


def is_at_least(logs: np.ndarray, ratio: float) -> bool:
    """Whether the whole interval of a ratio, from the logarithms of its pairs of processes, is at least `ratio`."""
    if len(logs) < FEWEST:
        return False
    point, half = _mean_interval_of_logs(logs, 0.0)
    return point - half >= math.log(ratio)


def _log_rounds(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]] | None) -> np.ndarray:
    """The logarithm of each round's median latency, or of its ratio."""
    logs: np.ndarray = np.log(round_medians(a))
    if b is not None:
        logs -= np.log(round_medians(b, like=a))
    return logs


def _rounds_error(a_ns: Processes, b_ns: Processes | None) -> float:
    """The standard error of one process's figure as far as its rounds show it, root mean square over processes.

    It counts only where processes are too few to show their spread; else it is not computed, and 0.
    """
    if len(a_ns) >= FEWEST:
        return 0.0
    others: Sequence[Sequence[Sequence[int]] | None] = [None] * len(a_ns) if b_ns is None else b_ns
    variances = [np.var(_log_rounds(a, b), ddof=1) / len(a) for a, b in zip(a_ns, others, strict=True)]
    return math.sqrt(float(np.mean(variances)))


def _mean_interval_of_logs(logs: np.ndarray, rounds_error: float) -> tuple[float, float]:
    """The mean and half the width of its interval."""
    n = len(logs)
    variance = float(logs.var(ddof=1)) if n > 1 else 0.0
    if n < FEWEST:
        variance = max(variance, PROCESS_SPREAD**2 + rounds_error**2)
    # No more degrees of freedom than the first processes have: their spread also chose how many there are, and few
    # are timed where it happened to be small.
    freedom = min(max(n, FEWEST), FIRST) - 1
    half = student_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance / n)
    return float(logs.mean()), half


def round_medians(rounds: Sequence[Sequence[int]], like: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """The median of each round, float64[rounds], in nanoseconds and at least 1.

    Raises:
        ValueError: Fewer than two rounds, or not as many as `like` has.
    """
    if len(rounds) < 2 or (like is not None and len(rounds) != len(like)):
        raise ValueError(f"at least two rounds, as many on both sides: {len(rounds)} rounds")
    return np.array([max(1.0, float(median(samples))) for samples in rounds])
