"""How much more must be measured until a figure lies on one side of a limit."""

from __future__ import annotations

import math
from statistics import NormalDist

from modelopt.measure.stats import CONFIDENCE, proportion_interval

_MOST_SAMPLES = 10**7
AT_LIMIT = "the figure is at its limit: more time will hardly decide"
"""What is said where `seconds_needed` knows no time."""

_NEAR = 0.005
"""A ratio nearer to its limit than this is at the limit: no time that anybody waits decides it."""


def samples_needed(lost: float, half: float, n: int, limit: float, *, share: bool) -> int | None:
    """How many samples would decide whether a loss is within a limit, if it stays as large as it is.

    Args:
        lost: The loss on the samples so far, as a fraction.
        half: The distance from `lost` to the end of its interval that lies on the other side of the limit.
        n: The samples so far.
        limit: The most that may be lost.
        share: Whether the loss is a share of answers; then its interval is Wilson's.

    Returns:
        A number with two digits, rounded up; None where no number of samples is known to decide.
    """
    distance = abs(limit - lost)
    if distance <= 0 or n < 1:
        return None
    needed = _for_share(lost, limit) if share and 0 <= lost <= 1 else n * (half / distance) ** 2
    if needed is None or needed > _MOST_SAMPLES:
        return None
    return _rounded_up(max(n + 1, needed))


def _for_share(lost: float, limit: float) -> float | None:
    """The fewest samples for which the whole interval of a share lies on its side of the limit."""
    few, many = 1, 1
    while not _decides(lost, many, limit):
        few, many = many, 2 * many
        if many > _MOST_SAMPLES:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if _decides(lost, middle, limit) else (middle, many)
    return float(many)


def _decides(lost: float, n: int, limit: float) -> bool:
    found = proportion_interval(lost * n, n)
    return found.high <= limit or found.low > limit


def differing_needed(lost: float, half: float, n: int, limit: float) -> int | None:
    """As `samples_needed`, for the difference of two shares on the same samples (Agresti & Min 2005).

    Half its interval is ``z · sqrt(d · n + 1) / n``, where d is the share of samples that only one model answers right.
    """
    distance = abs(limit - lost)
    if distance <= 0 or n < 1:
        return None
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    differing = max(0.0, ((half * n / z) ** 2 - 1) / n)
    root = math.sqrt((z * z * differing) ** 2 + (2 * distance * z) ** 2)
    needed = (z * z * differing + root) / (2 * distance**2)
    return None if needed > _MOST_SAMPLES else _rounded_up(max(n + 1, needed))


def seconds_needed(point: float, low: float, high: float, limit: float, wall_seconds: float) -> float | None:
    """The seconds of timing that would decide on which side of a limit a figure of time lies.

    The interval narrows with the root of the number of processes, and so with the root of the time.

    Args:
        point: The figure; a positive number, as the others.
        low: Lower end of its interval.
        high: Upper end.
        limit: The limit.
        wall_seconds: How long it was timed.

    Returns:
        Seconds in all; None where the figure is too near to its limit.
    """
    distance = abs(math.log(point / limit))
    if distance < _NEAR:
        return None
    half = math.log(high / point) if point < limit else math.log(point / low)
    return wall_seconds * (1.1 * half / distance) ** 2


def _rounded_up(number: float) -> int:
    """Rounded up to two digits: 384 becomes 390."""
    scale = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return int(math.ceil(number / scale) * scale)
