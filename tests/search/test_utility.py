"""The choice between two models: by speed on the threads asked for, speed on one thread, and size."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelopt.core import targets
from modelopt.measure.speed import Ratio, Verdict
from modelopt.recipe.recipe import BenchSpec, Gates, Recipe
from modelopt.report import Outcome
from modelopt.search.candidates import Candidate
from modelopt.search.utility import Preference, utility


def timed(point: float, half: float = 0.02) -> Ratio:
    low, high = point * math.exp(-half), point * math.exp(half)
    verdict = Verdict.FASTER if low > 1 and point > 1.01 else Verdict.SLOWER if high < 1 and point < 0.99 else None
    return Ratio(point=point, low=low, high=high, verdict=verdict or Verdict.NO_DIFFERENCE, processes=8)


@pytest.mark.parametrize(
    ("speed", "alone", "size", "more"),
    [
        (1.00, 1.00, 0.30, True),  # as fast, and a third of the size
        (1.00, 1.00, 0.95, False),
        (1.10, 1.10, 1.00, True),
        (1.01, 1.01, 1.00, False),  # within the noise
        (1.025, 1.00, 79 / 30, False),  # a little faster, and two and a half times as large
        (0.97, 1.00, 2 / 3, True),  # smaller by a third is not given up for 3 %
        (0.90, 0.95, 0.30, True),
        (1.00, 0.80, 1.00, False),
        (1.30, 0.80, 1.00, True),
    ],
)
def test_what_a_model_is_worth(speed: float, alone: float, size: float, more: bool) -> None:
    assert utility(timed(speed, 0.02), timed(alone, 0.02), size).is_more(0.0) is more


def test_speed_on_one_thread_alone_counts_where_it_was_asked_for() -> None:
    found = utility(timed(1.2), None, 1.0)
    assert found.value == pytest.approx(math.log(1.2))
    assert str(found) == "worth +20.0% (±2.0%)"


class Candidates:
    """Gives ratios by the names of the two models and the threads; on one thread everything takes `one_ns`."""

    def __init__(
        self,
        ratios: dict[tuple[str, str, int | None], float],
        threads: int = 0,
        one_ns: float = 2_000_000,
        closely: dict[tuple[str, str, int | None], float] | None = None,
    ) -> None:
        self.one_ns = one_ns
        self.asked: list[tuple[str, str, int | None]] = []
        self.not_timed = None
        self.input = built("float", 1000)
        self.request = SimpleNamespace(
            recipe=Recipe(steps=(), bench=BenchSpec(threads=threads), gates=Gates(max_drop=0.01))
        )
        self._ratios = ratios
        self._closely = closely or {}
        self.timed_closely: list[tuple[str, str, int | None]] = []

    def time(self, before: Candidate, after: Candidate, *, threads: int | None = None, closely: bool = False) -> Any:
        key = (before.path.name, after.path.name, threads)
        if closely:
            self.timed_closely.append(key)
            return self._latency(self._closely.get(key, self._ratios[key]), threads, half=0.01)
        self.asked.append(key)
        return self._latency(self._ratios[key], threads, half=0.02)

    def _latency(self, ratio: float, threads: int | None, half: float) -> Any:
        made = SimpleNamespace(median_ns=self.one_ns if threads == 1 else 1_000_000)
        return SimpleNamespace(ratio=timed(ratio, half), after=made)


def built(name: str, size: int) -> Candidate:
    return Candidate(Path(name), (), 1, size)


FLOAT, STATIC, DYNAMIC = built("float", 1000), built("static", 300), built("dynamic", 790)


def compared(
    candidates: Candidates, best: Candidate, made: Candidate, monkeypatch: pytest.MonkeyPatch, cores: int = 2
) -> Any:
    monkeypatch.setattr(targets, "usable_cores", lambda: cores)
    preference: Any = Preference(candidates, for_speed=True)  # type: ignore[arg-type]
    return preference.compare(best, made, FLOAT)


def test_a_small_model_is_not_given_up_for_a_little_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = Candidates({("static", "dynamic", None): 1.03, ("static", "dynamic", 1): 1.0})
    found = compared(candidates, STATIC, DYNAMIC, monkeypatch)
    assert found.outcome is Outcome.NO_GAIN
    assert "no gain beyond the noise" in found.reason
    candidates = Candidates(
        {("dynamic", "static", None): 0.97, ("dynamic", "static", 1): 1.0, ("float", "static", None): 1.2}
    )
    assert compared(candidates, DYNAMIC, STATIC, monkeypatch).is_better


def test_two_quantized_models_that_are_nearly_equal_do_not_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    even = built("dynamic", 300)
    for gain, better in ((1.04, False), (1.08, True)):
        candidates = Candidates({("static", "dynamic", None): gain, ("static", "dynamic", 1): gain})
        found = compared(candidates, STATIC, even, monkeypatch)
        assert found.is_better is better
        assert better or "too little for another choice" in found.reason
    small_gain = {("float", "static", None): 1.04, ("float", "static", 1): 1.04}
    # Beside the float model any gain counts.
    assert compared(Candidates(small_gain), FLOAT, STATIC, monkeypatch).is_better


def test_a_close_comparison_is_timed_again_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    even, key, alone = built("dynamic", 300), ("static", "dynamic", None), ("static", "dynamic", 1)
    for first, second, better in ((1.06, 1.03, False), (1.04, 1.08, True)):
        candidates = Candidates({key: first, alone: first}, closely={key: second, alone: second})
        assert compared(candidates, STATIC, even, monkeypatch).is_better is better
        assert candidates.timed_closely == [key, alone]
    candidates = Candidates({key: 1.5, alone: 1.5})
    assert compared(candidates, STATIC, even, monkeypatch).is_better
    assert not candidates.timed_closely


def test_whether_a_model_is_slower_is_timed_again_where_that_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A much smaller model is worth more in any case: only whether it is slower decides."""
    small, key, alone = built("static", 100), ("float", "static", None), ("float", "static", 1)
    candidates = Candidates({key: 1.0, alone: 1.0}, closely={key: 0.97, alone: 1.0})
    assert compared(candidates, FLOAT, small, monkeypatch).outcome is Outcome.SLOWER
    candidates = Candidates({key: 1.05, alone: 1.05})
    assert compared(candidates, FLOAT, small, monkeypatch).is_better
    assert not candidates.timed_closely


def test_nothing_slower_than_the_float_model_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared(Candidates({("float", "static", None): 0.95}), FLOAT, STATIC, monkeypatch).outcome is Outcome.SLOWER
    candidates = Candidates({("float", "static", None): 1.3, ("float", "static", 1): 0.9})
    assert compared(candidates, FLOAT, STATIC, monkeypatch).outcome is Outcome.SLOWER
    candidates = Candidates(
        {("dynamic", "static", None): 0.95, ("dynamic", "static", 1): 1.0, ("float", "static", None): 0.96}
    )
    assert compared(candidates, DYNAMIC, STATIC, monkeypatch).outcome is Outcome.SLOWER


@pytest.mark.parametrize(("threads", "cores"), [(4, 8), (0, 1)])
def test_one_thread_is_timed_only_where_others_were_not_named(
    threads: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = Candidates({("float", "static", None): 1.2}, threads=threads)
    assert compared(candidates, FLOAT, STATIC, monkeypatch, cores).is_better
    assert candidates.asked == [("float", "static", None)]


def test_the_report_says_what_to_set_where_threads_gain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: dict[tuple[str, str, int | None], float] = {("float", "static", None): 1.0, ("float", "static", 1): 1.4}
    assert compared(Candidates(ratios), FLOAT, STATIC, monkeypatch).advice is None
    advice = compared(Candidates(ratios, one_ns=1_050_000), FLOAT, STATIC, monkeypatch).advice
    assert advice == (
        "more threads hardly make the result faster (1.05 ms on one thread, 1.00 ms on all 2): intra_op_num_threads=1 "
        "leaves the other cores free"
    )
