"""Figures of which each fresh process gives one value: latency, peak memory, the time to load, the first run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from modelopt.measure.resample import student_quantile
from modelopt.measure.stats import CONFIDENCE


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over fresh processes.

    Attributes:
        point: The geometric mean.
        low: Lower end of its 95 % interval; None where one process leaves none.
        high: Upper end.
        processes: How many gave a value.
    """

    point: float
    low: float | None
    high: float | None
    processes: int


def over_processes(values: Sequence[float]) -> Figure:
    """The mean of one value from each process, with Student's t interval of the logarithms.

    Args:
        values: One positive number from each process.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("no process gave a value")
    logs = np.log(np.maximum(1.0, np.asarray(values, float)))
    return of_logs(logs, half_width(logs))


def half_width(logs: np.ndarray) -> float | None:
    """Half the width of the interval of their mean; None of a single one."""
    n = len(logs)
    if n < 2:
        return None
    return float(student_quantile((1 + CONFIDENCE) / 2, n - 1) * logs.std(ddof=1) / math.sqrt(n))


def of_logs(logs: np.ndarray, half: float | None) -> Figure:
    """The figure whose logarithm has this mean, and half of this width."""
    mean = float(logs.mean())
    low, high = (None, None) if half is None else (math.exp(mean - half), math.exp(mean + half))
    return Figure(point=math.exp(mean), low=low, high=high, processes=len(logs))
