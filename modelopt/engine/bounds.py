"""Where an interval lies beside a limit, as the outcome of a gate."""

from __future__ import annotations

import operator
from collections.abc import Callable

from modelopt.report import GateOutcome


def at_most(
    low: float | None, high: float | None, limit: float, *, within: Callable[[float, float], bool] = operator.le
) -> GateOutcome:
    """Whether a figure is no larger than a limit.

    Args:
        low: Lower end of its interval; None where it has none.
        high: Upper end.
        limit: The limit.
        within: Whether an end is within the limit.

    Returns:
        Passed where the whole interval is, failed where no part of it is, else inconclusive.
    """
    if high is not None and within(high, limit):
        return GateOutcome.PASSED
    if low is not None and not within(low, limit):
        return GateOutcome.FAILED
    return GateOutcome.INCONCLUSIVE


def at_least(low: float | None, high: float | None, limit: float) -> GateOutcome:
    """Whether a figure is no smaller than a limit: see `at_most`."""
    return at_most(high, low, limit, within=operator.ge)
