"""Size, speed and accuracy of a result in a few words."""

from __future__ import annotations

import pytest

from modelopt.measure.loss import Loss
from modelopt.measure.metric import Score
from modelopt.measure.speed import Ratio, Verdict
from modelopt.report.measured_words import lost, measured, times
from tests.report_tools import report, result


def _loss(lost: float, low: float | None, high: float | None, n: int = 600, unit: str = "share") -> Loss:
    score = Score(name="top1", value=1 - lost, n=n, low=None, high=None, unit=unit, higher_is_better=True)
    return Loss(lost, low, high, score, "")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (_loss(0.0, -0.009, 0.009), "top1 unchanged (600 samples: ±0.9 points)"),
        (_loss(0.0, 0.0, 0.107, n=32), "top1 unchanged (32 samples: at most 10.7 points lost)"),
        (_loss(0.0, None, None, n=1), "top1 unchanged (1 sample)"),
        (_loss(0.0032, -0.0022, 0.0085), "top1 -0.3 points (600 samples: -0.9 to +0.2)"),
        (_loss(-0.01, -0.02, 0.001), "top1 +1.0 points (600 samples: -0.1 to +2.0)"),
        (_loss(0.0041, 0.003, 0.005, unit=""), "outputs off by 0.41% (600 samples)"),
    ],
)
def test_accuracy(loss: Loss, said: str) -> None:
    assert lost(loss, "top1") == said


@pytest.mark.parametrize(
    ("name", "unit", "lost_share", "said"),
    [
        ("wer", "share", 0.004, "wer +0.4 points (40 samples: +0.2 to +0.6)"),
        ("mae", "", 0.004, "mae worse by 0.40% (40 samples)"),
        ("mae", "", -0.004, "mae better by 0.40% (40 samples)"),
    ],
)
def test_an_error_that_rises_is_worse(name: str, unit: str, lost_share: float, said: str) -> None:
    score = Score(name=name, value=0.1, n=40, low=None, high=None, unit=unit, higher_is_better=False)
    assert lost(Loss(lost_share, lost_share - 0.002, lost_share + 0.002, score, ""), name) == said


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.FASTER, "1.80× as fast (1.70–1.90)"),
        (Verdict.SLOWER, "slower: 1.80× as fast (1.70–1.90)"),
        (Verdict.NO_DIFFERENCE, "no difference in speed (1.70–1.90×)"),
        (Verdict.UNDECIDED, "speed not decided (1.70–1.90×)"),
    ],
)
def test_speed(verdict: Verdict, said: str) -> None:
    assert times(Ratio(point=1.8, low=1.7, high=1.9, verdict=verdict, processes=8)) == said


def test_what_was_not_measured_is_said() -> None:
    exact = report(result("fuse-conv-bn", "exact", 3))
    assert measured(exact) == "60.0% smaller, speed not measured"
    changed = report(result("prune-magnitude", "lossy", 3))
    assert measured(changed) == "60.0% smaller, speed not measured, accuracy not measured"
