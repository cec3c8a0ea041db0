"""The line that says what to do next, and when there is none."""

from __future__ import annotations

import msgspec
import pytest

from modelopt.report import GateOutcome, GateResult, Outcome, Report, Verification, next_step
from tests.report_tools import report, result, trial

STATIC = "quantize-static"
OPEN = GateResult(
    gate="max-drop", limit="1.00%", found="", outcome=GateOutcome.INCONCLUSIVE, hint="1 % needs about 390"
)
LARGE = GateResult(gate="max-size", limit="5.00%", found="40%", outcome=GateOutcome.FAILED, stops=True)


def _lossy(drop: float) -> Report:
    return report(trials=[msgspec.structs.replace(trial(STATIC, Outcome.INACCURATE), drop=drop)])


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (report(), None),
        (report(result("fuse-conv-bn", "exact", 3)), None),
        (report(result(STATIC, "approximate", 3)), "--eval DATA measures the accuracy"),
        (report(gates=(OPEN,)), "--max-drop is not decided: 1 % needs about 390"),
        (report(gates=(LARGE,)), "--max-size 40% admits the smallest model that was made"),
        (_lossy(0.0234), "--max-drop 2.4% admits a model that loses 2.34%"),
        (_lossy(0.5), None),
        (report(trials=[trial(STATIC, Outcome.NO_EVIDENCE)]), "data with labels on which the model scores well decide"),
        (report(trials=[trial(STATIC, Outcome.KEPT)]), None),
    ],
)
def test_the_next_step(found: Report, step: str | None) -> None:
    said = next_step.of(found)
    assert said == step if step is None or said is None else said.startswith(step)


def test_what_could_not_be_verified() -> None:
    unproved = Verification(source=None, unproved="nothing runs", hint="--dim batch=1")
    assert next_step.of(msgspec.structs.replace(report(), verification=unproved)) == "--dim batch=1"
