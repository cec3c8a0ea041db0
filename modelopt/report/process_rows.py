"""Rows of a before/after table for what each fresh process gives one value of: loading, the first run, peak memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelopt.measure.latency import BenchResult
from modelopt.measure.process_figures import Figure, over_processes
from modelopt.report.units import milliseconds, size

Row = tuple[str, str, str, str]

_ROWS: tuple[tuple[str, Callable[[BenchResult], Sequence[int]], Callable[[float], str]], ...] = (
    ("load", lambda result: result.loads_ns, milliseconds),
    ("first run", lambda result: result.first_runs_ns, milliseconds),
    ("memory, peak", lambda result: result.peaks_bytes, size),
)


def process_rows(before: BenchResult, after: BenchResult) -> list[Row]:
    """A row for each figure: both means over the processes, and the change with its 95 % interval."""
    rows = []
    for name, values, text in _ROWS:
        first, second = over_processes(values(before)), over_processes(values(after))
        rows.append((name, text(first.point), text(second.point), _change(first, second)))
    return rows


def _change(before: Figure, after: Figure) -> str:
    """The change in percent; with intervals, whether it is more than the processes differ."""
    change = f"{after.point / before.point - 1:+.1%}"
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return change
    apart = after.low > before.high or before.low > after.high
    return change if apart else f"{change}: within what processes differ"
