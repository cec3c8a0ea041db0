"""How many times as fast, on simulated processes: no clock is read here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelopt.measure.speed import (
    PROCESS_SPREAD,
    Verdict,
    half_width,
    is_clear,
    log_ratios,
    paired_ratio,
    processes_needed,
    wanted_half_width,
)

Processes = list[list[list[int]]]


def simulated(
    rng: np.random.Generator,
    *,
    ratio: float,
    processes: int = 8,
    rounds: int = 20,
    spread: float = 0.015,
    drift: float = 0.5,
    noise: float = 0.05,
) -> tuple[Processes, Processes]:
    """Processes of two models on a machine that slows down by `drift` meanwhile; a takes `ratio` times as long as b.

    Each process has a speed of its own, with a standard deviation of `spread`.
    """
    a: Processes = []
    b: Processes = []
    total = processes * rounds
    for process in range(processes):
        own = np.exp(rng.normal(0, spread, 2))
        a.append([])
        b.append([])
        for number in range(rounds):
            level = 1e6 * (1 + drift * (process * rounds + number) / total) * np.exp(rng.normal(0, 0.1))
            for rows, factor in ((a, ratio * own[0]), (b, own[1])):
                jitter = np.exp(rng.normal(0, noise)) * (1 + rng.exponential(noise, 5))
                rows[-1].append([int(level * factor * each) for each in jitter])
    return a, b


@pytest.mark.parametrize("spread", [0.0, 0.015, 0.04])
def test_the_same_model_is_rarely_called_different(spread: float) -> None:
    rng = np.random.default_rng(7)
    trials = 300
    wrong = 0
    for _ in range(trials):
        found = paired_ratio(*simulated(rng, ratio=1.0, processes=5, rounds=8, spread=spread))
        wrong += found.verdict in {Verdict.FASTER, Verdict.SLOWER}
    assert wrong <= 0.05 * trials + 2 * math.sqrt(0.05 * 0.95 * trials)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.45])
@pytest.mark.parametrize("processes", [1, 3, 5, 10])
def test_the_interval_covers_the_true_ratio(ratio: float, processes: int) -> None:
    rng = np.random.default_rng(11)
    trials = 200
    covered = 0
    for _ in range(trials):
        found = paired_ratio(*simulated(rng, ratio=ratio, processes=processes, rounds=8, spread=0.02))
        covered += found.low <= ratio <= found.high
    assert covered / trials >= 0.92
    assert processes < 5 or covered / trials <= 0.99


def test_rounds_alone_do_not_cover_what_differs_between_processes() -> None:
    """The reason for several processes: the interval of a single one, taken over its rounds, is far too narrow."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        (a,), (b,) = simulated(rng, ratio=1.0, processes=1, rounds=100, spread=0.02)
        logs = np.log([np.median(x) / np.median(y) for x, y in zip(a, b, strict=True)])
        covered += abs(logs.mean()) <= 1.98 * logs.std(ddof=1) / math.sqrt(len(logs))
    assert covered < 140


def test_a_large_difference_is_found_in_spite_of_drift() -> None:
    rng = np.random.default_rng(3)
    assert paired_ratio(*simulated(rng, ratio=1.45, drift=3.0)).verdict is Verdict.FASTER
    assert paired_ratio(*simulated(rng, ratio=0.7, drift=3.0)).verdict is Verdict.SLOWER


def steady(nanoseconds: int, processes: int = 5) -> Processes:
    return [[[nanoseconds]] * 4] * processes


def test_a_sure_difference_below_the_floor_is_none() -> None:
    found = paired_ratio(steady(1008), steady(1000))
    assert found.low > 1
    assert found.verdict is Verdict.NO_DIFFERENCE
    assert paired_ratio(steady(1008), steady(1000), floor=0.005).verdict is Verdict.FASTER
    assert paired_ratio(steady(1040), steady(1000), floor=0.05).verdict is Verdict.NO_DIFFERENCE


def test_one_process_decides_what_is_far_from_equal_and_nothing_else() -> None:
    assert paired_ratio(steady(2000, 1), steady(1000, 1)).verdict is Verdict.FASTER
    found = paired_ratio(steady(1050, 1), steady(1000, 1))
    assert found.verdict is Verdict.UNDECIDED
    assert found.high / found.point > 1 + 2 * PROCESS_SPREAD
    assert found.processes == 1


def test_alike_is_said_only_where_the_whole_interval_is_near_to_one() -> None:
    rng = np.random.default_rng(4)
    near = paired_ratio(*simulated(rng, ratio=1.0, processes=12, spread=0.01))
    far = paired_ratio(*simulated(rng, ratio=1.0, processes=5, spread=0.15))
    assert near.verdict is Verdict.NO_DIFFERENCE
    assert far.verdict is Verdict.UNDECIDED


def test_one_wild_round_changes_nothing() -> None:
    calm = [[[1000 + i] for i in range(20)]] * 5
    wild = [[*rounds[:-1], [50_000]] for rounds in calm]
    assert paired_ratio(wild, calm).verdict is Verdict.NO_DIFFERENCE
    assert paired_ratio(wild, calm).point == pytest.approx(1.0, abs=0.01)


def test_the_ratio_is_mirrored() -> None:
    a, b = simulated(np.random.default_rng(5), ratio=1.3)
    assert paired_ratio(a, b).point == pytest.approx(1 / paired_ratio(b, a).point)
    assert paired_ratio(a, b).low == pytest.approx(1 / paired_ratio(b, a).high)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([], [], "processes"),
        ([[[1]] * 3], [[[1]] * 3] * 2, "processes"),
        ([[[1]]], [[[1]]], "two rounds"),
        ([[[1]] * 3], [[[1]] * 4], "two rounds"),
    ],
)
def test_too_few_or_unequal_samples_are_a_bug_of_the_caller(a: Processes, b: Processes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paired_ratio(a, b)


def test_half_width_shrinks_with_processes() -> None:
    a, b = simulated(np.random.default_rng(1), ratio=1.0, processes=40, rounds=4)
    assert half_width(a, b) < half_width(a[:8], b[:8]) < half_width(a[:1], b[:1])
    assert half_width(steady(1000)) == 0


def test_the_spread_of_the_first_processes_says_how_many_are_needed() -> None:
    rng = np.random.default_rng(0)
    few, many = (processes_needed(rng.normal(0, spread, 8), 0.02) for spread in (0.01, 0.04))
    assert few <= 8 < 12 <= many
    assert processes_needed(np.array([0.0]), 0.02) == 1
    far = rng.normal(0.4, 0.04, 8)
    assert processes_needed(far, 0.02) <= 8
    assert wanted_half_width(far, 0.02) == pytest.approx(abs(far.mean()) / 4)
    assert wanted_half_width(rng.normal(0, 0.001, 8), 0.02) == 0.02
    assert is_clear(far)
    assert not is_clear(rng.normal(0, 0.04, 8))
    assert not is_clear(np.array([0.4]))


def test_the_number_of_processes_keeps_the_coverage() -> None:
    """Stein's rule in small: the spread of eight says how many, and the interval over all of them still covers."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(1000):
        logs = rng.normal(0, 0.03, 30)
        n = min(30, max(8, processes_needed(logs[:8], 0.02)))
        pairs = [[[int(1e9 * math.exp(each))]] * 2 for each in logs[:n]]
        found = paired_ratio(pairs, [[[10**9]] * 2] * n)
        covered += found.low <= 1 <= found.high
    assert 0.92 <= covered / 1000 <= 0.97


def test_a_pair_of_processes_gives_one_figure() -> None:
    assert log_ratios(steady(2000, 3), steady(1000, 3)) == pytest.approx([math.log(2)] * 3)
