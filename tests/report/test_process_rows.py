"""Loading, the first run and peak memory before and after, with what processes differ by."""

from __future__ import annotations

from modelopt.measure.latency import BenchResult
from modelopt.report.process_rows import process_rows
from tests.report_tools import timed


def _result(peaks: tuple[int, ...], loads: tuple[int, ...]) -> BenchResult:
    return timed([1] * len(peaks), peaks=peaks, loads=loads, first_run_ns=1_000_000)


def test_what_changes_and_what_is_noise() -> None:
    before = _result((100_000_000, 101_000_000, 99_000_000), (5_000_000, 9_000_000, 2_000_000))
    after = _result((50_000_000, 51_000_000, 49_000_000), (4_000_000, 9_000_000, 2_000_000))
    rows = {name: (was, now, change) for name, was, now, change in process_rows(before, after)}
    assert rows["memory, peak"] == ("100.00 MB", "49.99 MB", "-50.0%")
    assert rows["first run"] == ("1.00 ms", "1.00 ms", "+0.0%: within what processes differ")
    assert rows["load"][2].endswith("within what processes differ")
    lone = process_rows(_result((100,), (1,)), _result((200,), (1,)))
    assert lone[-1][3] == "+100.0%"
