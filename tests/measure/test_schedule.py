"""The schedule of timed runs, on a simulated machine and clock: no test reads a real clock."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from modelopt.core.progress import Progress, silent
from modelopt.measure.schedule import (
    Slice,
    Timer,
    TimingPlan,
    Timings,
    by_process,
    in_turn,
    processes_wanted,
    time_processes,
)
from modelopt.measure.speed import Ratio, Verdict, half_width, is_at_least, paired_ratio

MS = 1_000_000


class Machine:
    """A simulated machine: each model has a latency, each process a factor of its own, and noise and drift distort."""

    def __init__(
        self, latencies_ns: list[int], *, noise: float = 0.0, drift_per_call: float = 0.0, spread: float = 0.0
    ) -> None:
        self.latencies_ns = latencies_ns
        self.noise = noise
        self.drift_per_call = drift_per_call
        self.spread = spread
        self.calls: list[tuple[int, int, int, int, int]] = []
        self.now_ns = 0
        self.rng = np.random.default_rng(0)

    @contextlib.contextmanager
    def group(self, number: int) -> Iterator[Timer]:
        own = np.exp(self.rng.normal(0, self.spread, len(self.latencies_ns)))

        def run(asked: Slice) -> list[int]:
            model, feed, runs, lead_in, _ = asked
            self.calls.append((number, model, feed, runs, lead_in))
            level = self.latencies_ns[model] * own[model] * (1 + feed) * (1 + self.drift_per_call * len(self.calls))
            samples = [int(level * np.exp(self.rng.normal(0, self.noise))) for _ in range(runs)]
            self.now_ns += sum(samples) + int(lead_in * level)
            return samples

        self.now_ns += 300 * MS  # starting the processes
        yield run

    def time(self, n_feeds: int, plan: TimingPlan, progress: Progress = silent) -> list[Timings]:
        return time_processes(self.group, len(self.latencies_ns), n_feeds, plan, lambda: self.now_ns, progress)


def ratio(timings: list[Timings]) -> Ratio:
    first, second = (by_process(each) for each in timings)
    return paired_ratio(first, second)


def test_quiet_models_that_differ_end_after_five_processes_and_alike_ones_after_eight() -> None:
    timings = Machine([3 * MS, 2 * MS]).time(1, TimingPlan())
    assert [len(each) for each in timings] == [5, 5]
    assert [each[0].runs_per_round for each in timings] == [1, 2]  # slices of 4 ms
    assert [each[0].lead_in for each in timings] == [2, 2]  # at least 4 ms
    assert all(process.settled for each in timings for process in each)
    assert [len(each) for each in Machine([3 * MS, 3 * MS], spread=0.005).time(1, TimingPlan())] == [8, 8]


def test_enough_is_known_once_the_whole_interval_is_above_a_limit() -> None:
    """A model that is as fast need not be known to 1 %, but that it is not slower."""
    plan = TimingPlan(precision=0.001, enough=0.98)
    assert len(Machine([3 * MS, 3 * MS], spread=0.003).time(1, plan)[0]) == 5
    assert len(Machine([300 * MS // 100, 306 * MS // 100], spread=0.006).time(1, plan)[0]) > 5  # it may be slower
    assert len(Machine([3 * MS, 3 * MS], spread=0.03).time(1, plan)[0]) in {12, 18, 30}  # nobody knows at once
    assert (
        len(Machine([3 * MS, 4 * MS], spread=0.08).time(1, plan)[0]) < 30
    )  # it is slower, by how much does not matter


@pytest.mark.parametrize(
    ("ratio", "spread", "least", "most"),
    [(1.0, 0.01, 0.99, 1), (1.0, 0.015, 0.99, 1), (1.0, 0.03, 0.85, 1), (0.98, 0.015, 0, 0.1), (0.96, 0.015, 0, 0.01)],
)
def test_how_often_a_model_is_shown_to_be_as_fast(ratio: float, spread: float, least: float, most: float) -> None:
    """A model that is as fast is shown to be so where processes differ by 1 to 2 %; one at the limit rarely is."""
    plan, rng, shown = TimingPlan(enough=0.98), np.random.default_rng(0), 0
    for _ in range(400):
        logs = rng.normal(np.log(ratio), spread, plan.max_processes)
        n = 5
        while (wanted := min(processes_wanted([logs[:n]], plan), plan.max_processes)) > n:
            n = wanted
        shown += is_at_least(logs[:n], 0.98)
    assert least <= shown / 400 <= most


def test_processes_that_differ_ask_for_more_of_them_once() -> None:
    timings = Machine([3 * MS, 3 * MS], spread=0.02).time(1, TimingPlan())
    assert 8 < len(timings[0]) < 30
    assert ratio(timings).high - ratio(timings).low < 0.06


def test_the_budget_ends_it_whatever_is_known() -> None:
    machine = Machine([3 * MS, 3 * MS], spread=0.2)
    timings = machine.time(1, TimingPlan(budget_ns=6_000 * MS))
    assert 5 <= len(timings[0]) < 8
    assert machine.now_ns <= 6_000 * MS


def test_a_huge_model_still_gets_a_process_and_a_tiny_one_not_too_many_runs() -> None:
    huge, tiny = Machine([5_000 * MS, 1_000]).time(1, TimingPlan(budget_ns=MS))
    assert len(huge) == len(tiny) == 1
    assert len(huge[0].rounds) == len(tiny[0].rounds) == 5
    assert huge[0].runs_per_round == 1
    assert huge[0].lead_in == 0
    assert tiny[0].runs_per_round == 1000


def test_the_order_alternates_in_and_between_groups_and_a_round_times_one_feed() -> None:
    machine = Machine([30 * MS, 30 * MS])
    timings = machine.time(2, TimingPlan(processes=2, max_processes=2))
    warmup = timings[0][0].warmup_runs + timings[1][0].warmup_runs
    first = [call for call in machine.calls if call[0] == 0][warmup:]
    assert [model for _, model, *_ in first[:8]] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [feed for _, _, feed, *_ in first[:8]] == [0, 0, 1, 1, 0, 0, 1, 1]
    second = [call for call in machine.calls if call[0] == 1][warmup:]
    assert [model for _, model, *_ in second[:8]] == [1, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_model_is_before_another_more_often(n: int) -> None:
    orders = [in_turn(turn, n) for turn in range(4 * n)]
    assert {order[0] for order in orders} == set(range(n))
    for a, b in itertools.combinations(range(n), 2):
        assert sum(order.index(a) < order.index(b) for order in orders) == len(orders) / 2


def test_drift_does_not_look_like_a_difference() -> None:
    timings = Machine([30 * MS, 30 * MS], drift_per_call=0.002).time(1, TimingPlan())
    assert ratio(timings).verdict is Verdict.NO_DIFFERENCE


def test_stopping_early_does_not_invent_differences() -> None:
    wrong = 0
    for trial in range(200):
        machine = Machine([10 * MS, 10 * MS], noise=0.05, spread=0.02)
        machine.rng = np.random.default_rng(trial)
        wrong += ratio(machine.time(1, TimingPlan())).verdict in {Verdict.FASTER, Verdict.SLOWER}
    assert wrong <= 16  # 5 % plus two standard deviations of this count


def test_a_known_ratio_is_recovered_over_unlike_feeds() -> None:
    timings = Machine([29 * MS, 20 * MS], noise=0.02, spread=0.01).time(4, TimingPlan())
    found = ratio(timings)
    assert found.verdict is Verdict.FASTER
    assert found.point == pytest.approx(1.45, rel=0.03)
    assert {len(process.rounds) % 4 for process in timings[0]} == {0}


def test_a_single_model_is_timed_until_its_latency_is_known() -> None:
    (timings,) = Machine([MS], spread=0.02).time(1, TimingPlan())
    assert len(timings) == 8
    assert half_width(by_process(timings)) < 0.05


def test_a_latency_that_never_settles_is_noticed() -> None:
    (timings,) = Machine([MS], drift_per_call=0.5).time(1, TimingPlan(warmup_ns=50 * MS, processes=2, max_processes=2))
    assert not timings[0].settled
    assert timings[0].warmup_ns >= 50 * MS


def test_without_a_warm_up_one_run_says_how_long_a_run_is() -> None:
    machine = Machine([MS, MS])
    (first, *_), _ = machine.time(1, TimingPlan(warmup_ns=0, processes=1, max_processes=1))
    assert first.warmup_runs == 1
    assert first.runs_per_round == 4
    assert max(asked[4] for asked in machine.calls) == 4


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int | None]] = []
    Machine([MS]).time(1, TimingPlan(), lambda *told: seen.append(told))
    assert len(seen) == 8
    assert seen[0][0] == "timing"
    assert seen[-1][1] <= TimingPlan().budget_ns
