"""A stored report beside an earlier one: what is worse, what is not decided, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelopt.core import quantities
from modelopt.core.errors import InputError
from modelopt.engine import baseline
from modelopt.engine.baseline import CheckLimits
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.measure.metric import Score
from modelopt.measure.stats import Units
from modelopt.measure.task_score import TaskScore, UnitScores
from modelopt.recipe.recipe import OnInconclusive
from modelopt.report import GateOutcome, GateResult
from modelopt.report.check_report import CheckReport
from modelopt.report.stored import Stored, Subject
from tests.report_tools import timed

PASSED, FAILED, OPEN = GateOutcome.PASSED, GateOutcome.FAILED, GateOutcome.INCONCLUSIVE


def allowed(text: str) -> quantities.Allowed:
    return quantities.allowed(text, quantities.nanoseconds)


def _timed(*runs_ns: int, peak: int = 100, **env: Any) -> BenchResult:
    return timed(runs_ns, peaks=(peak,), loads=(50,), **env)


def _scored(right: list[int], data: str = "d", *, kept: bool = True) -> Accuracy:
    share = sum(right) / len(right)
    score = Score(
        name="top1", value=share, n=len(right), low=share - 0.1, high=share + 0.1, unit="share", higher_is_better=True
    )
    units = UnitScores.of(Units(np.array(right, float), np.ones(len(right)))) if kept else None
    task = TaskScore(reference=score, candidate=score, delta=None, units=units)
    return Accuracy(n=len(right), tasks=(task,), outputs=(), fidelity=(), data_sha256=data)


def _stored(
    result: BenchResult | None = None,
    accuracy: Accuracy | None = None,
    size: int = 1000,
    beside: BenchResult | None = None,
) -> Stored:
    return Stored(Path("r.json"), (Subject("m.onnx", size, beside, result, accuracy),))


def _check(new: Stored, old: Stored, limits: CheckLimits, **how: bool) -> CheckReport:
    return baseline.check(new, old, limits, **how)


def _gate(new: Stored, old: Stored, limits: CheckLimits, **how: bool) -> GateResult:
    (gate,) = _check(new, old, limits, **how).gates
    return gate


@pytest.mark.parametrize(
    ("now", "limit", "outcome"),
    [
        ([1000, 1002] * 4, "+3%", PASSED),
        ([1100, 1102] * 4, "+3%", FAILED),
        ([900, 1160] * 4, "+3%", OPEN),
        ([1029, 1033] * 4, "+3%", OPEN),
        ([1100, 1102] * 4, "2us", PASSED),
        ([1100, 1102] * 4, "1us", FAILED),
    ],
)
def test_latency(now: list[int], limit: str, outcome: GateOutcome) -> None:
    found = _check(_stored(_timed(*now)), _stored(_timed(*[999, 1001] * 4)), CheckLimits(latency=allowed(limit)))
    (gate,) = found.gates
    assert (gate.gate, gate.limit, gate.outcome) == ("max-latency", limit, outcome)
    assert gate.stops == (outcome is not PASSED)
    words = {PASSED: "No worse than the baseline.", FAILED: "Worse than the baseline: max-latency."}
    assert found.verdict == words.get(outcome, "Not decided: max-latency.")


def test_an_open_gate_may_pass() -> None:
    limits = CheckLimits(latency=allowed("+3%"), on_inconclusive=OnInconclusive.PASS)
    gate = _gate(_stored(_timed(*[900, 1160] * 4)), _stored(_timed(*[999, 1001] * 4)), limits)
    assert (gate.outcome, gate.stops) == (OPEN, False)
    assert "--budget" in (gate.hint or "")


def test_size_and_memory() -> None:
    new, old = _stored(_timed(*[10] * 8, peak=120), size=1011), _stored(_timed(*[10] * 8), size=1000)
    assert _gate(new, old, CheckLimits(size=allowed("+1%"))).outcome is FAILED
    assert _gate(new, old, CheckLimits(size=allowed("+2%"))).outcome is PASSED
    assert _gate(new, old, CheckLimits(memory=allowed("+10%"))).outcome is FAILED
    assert _gate(new, old, CheckLimits(memory=allowed("+25%"))).outcome is PASSED


def test_accuracy_is_compared_sample_by_sample() -> None:
    right = [1] * 950 + [0] * 50
    limits = CheckLimits(drop=0.01)
    assert _gate(_stored(accuracy=_scored(right)), _stored(accuracy=_scored(right)), limits).outcome is PASSED
    worse = [0] * 40 + right[40:]
    assert _gate(_stored(accuracy=_scored(worse)), _stored(accuracy=_scored(right)), limits).outcome is FAILED
    # Without the scores of the samples the difference of two intervals of ±10 % says nothing of 1 %.
    blind = _scored(right, kept=False)
    gate = _gate(_stored(accuracy=blind), _stored(accuracy=blind), limits)
    assert gate.outcome is OPEN
    assert "samples resolve" in (gate.hint or "")


def test_what_is_not_compared() -> None:
    fast = _timed(*[10] * 8)
    others: list[dict[str, Any]] = [{"cpu": "another"}, {"threads": 7}, {"onnxruntime": "2"}, {"cores": 99}]
    for other in others:
        ((name, value),) = other.items()
        with pytest.raises(InputError, match="are not compared") as caught:
            _check(_stored(_timed(*[10] * 8, **other)), _stored(fast), CheckLimits(latency=allowed("+5%")))
        assert f"{name} {value}, and was" in (caught.value.note or "")
    with pytest.raises(InputError, match="other data"):
        _check(_stored(accuracy=_scored([1, 0])), _stored(accuracy=_scored([1, 0], "e")), CheckLimits(drop=0.01))
    two = Stored(Path("r.json"), _stored(fast).subjects * 2)
    with pytest.raises(InputError, match="judge 1 and 2 models"):
        _check(_stored(fast), two, CheckLimits(latency=allowed("+5%")))


def test_across_machines_ratios_are_compared() -> None:
    limits = CheckLimits(latency=allowed("+5%"))
    old = _stored(_timed(*[50, 51] * 4), beside=_timed(*[100, 101] * 4))
    same = _stored(_timed(*[5000, 5010] * 4, cpu="another"), beside=_timed(*[10000, 10010] * 4, cpu="another"))
    worse = _stored(_timed(*[8000, 8010] * 4, cpu="another"), beside=_timed(*[10000, 10010] * 4, cpu="another"))
    assert _gate(same, old, limits, across_machines=True).outcome is PASSED
    assert _gate(worse, old, limits, across_machines=True).outcome is FAILED
    with pytest.raises(InputError, match="not timed beside another model"):
        _check(_stored(_timed(*[5] * 8)), old, limits, across_machines=True)


def test_what_a_report_does_not_hold() -> None:
    bare, fast = _stored(), _stored(_timed(*[10] * 8))
    assert _check(bare, fast, CheckLimits(latency=allowed("+5%"), drop=0.01, are_defaults=True)).gates == ()
    with pytest.raises(InputError, match="--max-latency needs latencies, which the report does not hold"):
        _check(bare, fast, CheckLimits(latency=allowed("+5%")))
    with pytest.raises(InputError, match="--max-drop needs accuracy, which the baseline does not hold"):
        _check(_stored(accuracy=_scored([1, 0])), fast, CheckLimits(drop=0.01))
