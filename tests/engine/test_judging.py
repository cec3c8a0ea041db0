"""A gate passes where the whole interval meets its limit, fails where none of it does, and is open between the two."""

from __future__ import annotations

import pytest

from modelopt.engine import judging
from modelopt.engine.findings import Findings
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.metric import Score
from modelopt.measure.outputs import OutputScore
from modelopt.measure.speed import Ratio, Verdict
from modelopt.measure.stats import Delta, proportion_interval
from modelopt.measure.task_score import TaskScore
from modelopt.recipe.recipe import Gates, OnInconclusive
from modelopt.report import GateOutcome, GateResult, Latency
from tests.report_tools import timed

PASSED, FAILED, OPEN = GateOutcome.PASSED, GateOutcome.FAILED, GateOutcome.INCONCLUSIVE


def _score(name: str, value: float, n: int, low: float | None, high: float | None, unit: str = "share") -> Score:
    return Score(name=name, value=value, n=n, low=low, high=high, unit=unit, higher_is_better=unit != "")


def _agreeing(right: int, n: int) -> Findings:
    found = proportion_interval(right, n)
    score = _score("argmax-agreement", right / n, n, found.low, found.high)
    output = OutputScore(output="y", kind="classes", why="", scores=(score,))
    return Findings(unchanged=False, accuracy=Accuracy(n=n, tasks=(), outputs=(output,), fidelity=()))


def _task(point: float, low: float | None, high: float | None, n: int = 600) -> Findings:
    score = _score("top1", 0.9 + point, n, None, None)
    task = TaskScore(reference=score, candidate=score, delta=Delta(point=point, low=low, high=high), chance=None)
    return Findings(unchanged=False, accuracy=Accuracy(n=n, tasks=(task,), outputs=(), fidelity=()))


def _timed(low: float, point: float, high: float) -> Findings:
    ratio = Ratio(point=point, low=low, high=high, verdict=Verdict.UNDECIDED, processes=8)
    after = timed([1000] * 8)
    return Findings(unchanged=False, latency=Latency(before=after, after=after, ratio=ratio))


def _judged(contract: Gates, findings: Findings, sizes: tuple[int, int] = (100, 50)) -> GateResult:
    (found,) = judging.judge(contract, *sizes, findings)
    return found


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [((1.11, 1.2, 1.3), PASSED), ((1.1, 1.2, 1.3), PASSED), ((0.9, 1.2, 1.5), OPEN), ((0.7, 0.9, 1.09), FAILED)],
)
def test_a_speedup(ratio: tuple[float, float, float], outcome: GateOutcome) -> None:
    found = _judged(Gates(min_speedup=1.1), _timed(*ratio))
    assert found.outcome is outcome
    assert found.stops == (outcome is not PASSED)


def test_what_would_decide_a_speedup() -> None:
    found = _judged(Gates(min_speedup=1.1), _timed(0.99, 1.155, 1.35))  # ln(1.155/0.99) is 3.16 × ln(1.155/1.1)
    assert found.hint == "about 242 s of timing would decide: --budget 242"
    found = _judged(Gates(min_speedup=1.1), _timed(0.99, 1.101, 1.35))
    assert found.hint == "the figure is at its limit: more time will hardly decide"


def test_a_share_of_answers() -> None:
    assert _judged(Gates(max_drop=0.01), _agreeing(1000, 1000)).outcome is PASSED
    assert _judged(Gates(max_drop=0.01), _agreeing(900, 1000)).outcome is FAILED
    assert _judged(Gates(max_drop=0.01), _agreeing(59, 60)).stops  # on the samples at hand it breaks the limit
    found = _judged(Gates(max_drop=0.01), _agreeing(60, 60))
    assert (found.outcome, found.stops) == (OPEN, False)
    assert found.found == "0.00% (classes that differ from the original's, 0.00% to 6.02%)"
    assert found.hint == "60 samples resolve 6 points; 1 % needs about 390"
    assert _judged(Gates(max_drop=0.01), _agreeing(390, 390)).outcome is PASSED


def test_a_fall_of_the_task_metric() -> None:
    assert _judged(Gates(max_drop=0.01), _task(0.001, -0.006, 0.008)).outcome is PASSED
    assert _judged(Gates(max_drop=0.01), _task(-0.05, -0.08, -0.02)).outcome is FAILED
    found = _judged(Gates(max_drop=0.01), _task(0.0, -0.032, 0.032, n=60))
    assert found.outcome is OPEN
    assert found.hint == "60 samples resolve 3.2 points; 1 % needs about 200"
    assert _judged(Gates(max_drop=0.01), _task(0.0, None, None, n=1)).hint == "one sample shows no spread: give more"


def test_equal_outputs_lose_nothing_on_one_sample() -> None:
    exact = Score(name="sqnr", value=None, n=1, low=None, high=None, unit="dB", higher_is_better=True, note="exact")
    accuracy = Accuracy(n=1, tasks=(), outputs=(), fidelity=(exact,), named=True)
    assert _judged(Gates(max_drop=0.01), Findings(unchanged=False, accuracy=accuracy)).outcome is PASSED


@pytest.mark.parametrize(
    ("contract", "outcome"),
    [
        (Gates(max_latency_ns=1100), PASSED),
        (Gates(max_latency_ns=900), FAILED),
        (Gates(max_latency_ns=1005), OPEN),
        (Gates(max_memory_bytes=104), PASSED),
        (Gates(max_memory_bytes=95), FAILED),
        (Gates(max_memory_bytes=100), OPEN),
        (Gates(max_load_ns=210), PASSED),
        (Gates(max_load_ns=190), FAILED),
    ],
)
def test_figures_of_thetimed(contract: Gates, outcome: GateOutcome) -> None:
    after = timed([980, 1020] * 4, peaks=(99, 101) * 4, loads=(200,) * 8)
    ratio = Ratio(point=1, low=1, high=1, verdict=Verdict.NO_DIFFERENCE, processes=8)
    found = _judged(contract, Findings(unchanged=False, latency=Latency(before=after, after=after, ratio=ratio)))
    assert found.outcome is outcome
    assert found.stops == (outcome is not PASSED)


def test_one_process_decides_no_figure_of_memory() -> None:
    (found,) = judging.judge_figures(Gates(max_memory_bytes=1000), timed([1000], peaks=(100,)))
    assert found.outcome is OPEN
    assert "--processes" in (found.hint or "")


def test_what_an_open_gate_does() -> None:
    speed, drop = _timed(0.9, 1.2, 1.5), _agreeing(60, 60)
    for asked, stops in (
        (None, (True, False)),
        (OnInconclusive.PASS, (False, False)),
        (OnInconclusive.FAIL, (True, True)),
    ):
        found = _judged(Gates(min_speedup=1.1, on_inconclusive=asked), speed)
        other = _judged(Gates(max_drop=0.01, on_inconclusive=asked), drop)
        assert (found.stops, other.stops) == stops
        assert {found.outcome, other.outcome} == {OPEN}


def test_what_is_too_large_is_judged_by_its_size_alone() -> None:
    """A limit of 0 counts as asked for."""
    contract = Gates(max_size_bytes=10, max_drop=0.0, min_speedup=1.1, max_load_ns=5, must_gain=True)
    found = judging.judge(contract, 100, 50, Findings(unchanged=False, not_measured="not measured: too large"))
    assert [(each.gate, each.outcome) for each in found] == [
        ("max-size", FAILED),
        *((name, GateOutcome.NOT_JUDGED) for name in ("must-gain", "min-speedup", "max-load", "max-drop")),
    ]


def test_a_gain() -> None:
    contract = Gates(must_gain=True)
    assert _judged(contract, _timed(0.985, 1.0, 1.015)).outcome is PASSED  # as fast, and smaller
    assert _judged(contract, _timed(0.985, 1.0, 1.015), (100, 100)).outcome is FAILED
    assert _judged(contract, _timed(0.95, 1.03, 1.1)).outcome is FAILED  # it may be slower
