"""Scheduling, warnings and placement on simulated timers; one bench of a real tiny model that asserts no time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import modelopt.measure.latency as bench_module
from modelopt.cli import bench_cmd
from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.core.progress import Progress, silent
from modelopt.measure import timing_warnings
from modelopt.measure.environment import Environment, describe
from modelopt.measure.latency import BenchResult, TimingSpec, run_bench
from modelopt.measure.schedule import (
    ProcessTimings,
    Slice,
    Timer,
    TimingPlan,
    Timings,
    by_process,
    in_turn,
    time_processes,
)
from modelopt.measure.speed import Ratio, Verdict, half_width, paired_ratio
from modelopt.recipe import recipe as recipes
from modelopt.report.summary import covered
from modelopt.runtime.placement import Placement, placement_of
from modelopt.runtime.session import NodeRun, SessionSpec

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


QUIET = Environment(
    cpu="x",
    machine="x86_64",
    system="Linux",
    cores=4,
    threads=4,
    python="3",
    onnxruntime="1",
    load_average=0.1,
    governor=None,
)


def test_warnings_name_what_helps() -> None:
    assert list(timing_warnings.of_environment(QUIET)) == []
    busy = msgspec.structs.replace(QUIET, load_average=9.0, threads=8, governor="powersave")
    load, threads, governor = timing_warnings.of_environment(busy)
    assert "9.0 on 4" in load
    assert "--threads 4" in threads
    assert "performance" in governor

    assert list(timing_warnings.of_samples([process([[1000] * 100] * 10)], n_feeds=1, plan=TimingPlan())) == []
    assert timing_warnings.of_percentiles([[[1000] * 100] * 10]) is None
    few = timing_warnings.of_percentiles([[[1000] * 5] * 10])
    assert few == "50 samples are too few for p90, p95, p99: --processes 2 gives p90"

    wild = process([[1000] * 90 + [9000] * 10] * 5 + [[2000] * 100] * 5, settled=False)
    told = "\n".join(timing_warnings.of_samples([wild], n_feeds=1, plan=TimingPlan(warmup_ns=10**9)))
    assert "--warmup 4" in told
    assert "noisy" in told


def process(rounds: list[list[int]], *, settled: bool = True, warmup_ns: int = 10**9) -> ProcessTimings:
    return ProcessTimings(warmup_runs=1, warmup_ns=warmup_ns, settled=settled, rounds=rounds)


@pytest.mark.parametrize(
    ("asked_s", "done_s", "told"),
    [
        (0.1, 0.1, "the latency was still changing after 0.1 s of warm-up: --warmup 1"),
        (0.1, 0.34, "the latency was still changing after 0.34 s of warm-up: --warmup 1"),
        (3, 3.2, "the latency was still changing after 3.2 s of warm-up: --warmup 12"),
        (0, 0, "there was no warm-up: --warmup 1"),
    ],
)
def test_the_warm_up_that_was_done_is_stated(asked_s: float, done_s: float, told: str) -> None:
    rounds = [[1000] * 100] * 10
    restless, calm = process(rounds, settled=False, warmup_ns=int(done_s * 1e9)), process(rounds)
    plan = TimingPlan(warmup_ns=int(asked_s * 1e9))
    assert list(timing_warnings.of_samples([restless], n_feeds=1, plan=plan)) == [told]
    assert list(timing_warnings.of_samples([restless, calm, calm], n_feeds=1, plan=plan)) == []


def test_far_outliers_are_counted_per_feed() -> None:
    unlike = process([[1000] * 100, [9000] * 100] * 5)
    assert list(timing_warnings.of_samples([unlike], n_feeds=2, plan=TimingPlan())) == []
    struck = process([[1000] * 95 + [9000] * 5] * 10)
    (told,) = timing_warnings.of_samples([struck], n_feeds=1, plan=TimingPlan())
    assert told.startswith("50 of 1000 samples are far outliers")


@pytest.mark.parametrize(
    ("half_width", "budget_s", "processes", "told"),
    [
        (0.01, 10, 8, None),
        (0.04, 10, 8, "the interval is ±4.0%, wider than ±2.0%: --budget 40"),
        (0.08, 1, 1, "the interval is ±8.0% from 1 process, wider than ±2.0%: --budget 16"),
        (0.08, 5, 3, "the interval is ±8.0% from 3 processes, wider than ±2.0%: --budget 80"),
        (0.04, 600, 8, "the interval is ±4.0%, wider than ±2.0%"),
    ],
)
def test_a_wide_interval_asks_for_a_larger_budget(
    half_width: float, budget_s: int, processes: int, told: str | None
) -> None:
    plan = TimingPlan(budget_ns=budget_s * 10**9)
    assert timing_warnings.of_precision(half_width, 0.02, plan, processes) == told


def test_placement_counts_nodes_and_time() -> None:
    runs = [NodeRun("a", "Conv", "CUDAExecutionProvider", 90), NodeRun("b", "Shape", "CPUExecutionProvider", 10)]
    placement = placement_of("CUDAExecutionProvider", ("CUDAExecutionProvider", "CPUExecutionProvider"), runs)
    assert placement.warning() == "1 of 2 nodes ran on CPUExecutionProvider (10% of the time in kernels)"
    assert placement_of("CPUExecutionProvider", ("CPUExecutionProvider",), runs[1:]).warning() is None


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "tiny.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return path


FEEDS = [{"x": np.ones((n, 4), np.float32)} for n in (1, 3)]
SHORT = TimingSpec(session=SessionSpec(threads=1), plan=TimingPlan(budget_ns=1, warmup_ns=1, slice_ns=1, max_rounds=6))


def test_a_real_bench_reports_all_that_it_measured(tiny: Path) -> None:
    first, second = run_bench([tiny, tiny], FEEDS, SHORT)
    assert [len(rounds) for rounds in first.samples_ns] == [len(rounds) for rounds in second.samples_ns] == [6]
    assert second.times_as_fast_as(first).processes == 1
    assert first.node_providers == {"CPUExecutionProvider": 1}
    assert first.providers == ("CPUExecutionProvider",)
    assert first.env.threads == 1
    assert min(first.cold_ns, first.load_ns, first.peak_bytes, first.warmup_runs, first.median_ns) > 0
    assert second.times_as_fast_as(first).low > 0
    assert msgspec.json.decode(msgspec.json.encode(first), type=BenchResult) == first


def test_a_provider_that_runs_nothing_is_never_timed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modelopt.runtime.placement as placement_module

    def elsewhere(_requested: str, providers: tuple[str, ...], runs: list[NodeRun]) -> Placement:
        return placement_of("CUDAExecutionProvider", providers, runs)

    monkeypatch.setattr(placement_module, "placement_of", elsewhere)
    monkeypatch.setattr(bench_module, "time_processes", lambda *_: pytest.fail("timed"))
    with pytest.raises(EnvironmentLacks, match="CUDAExecutionProvider ran no node"):
        run_bench([tiny], FEEDS, SHORT)


def test_flags_recipes_and_the_plan_have_the_same_defaults() -> None:
    given = {each.name: each.default for each in bench_cmd.command.params}
    recipe, plan = recipes.BenchSpec(), TimingPlan()
    assert given["budget"] == recipe.budget_seconds == plan.budget_ns / 1e9
    assert given["warmup"] == recipe.warmup_seconds == plan.warmup_ns / 1e9
    assert given["processes"] == recipe.processes == plan.processes
    assert given["rounds"] == recipe.rounds == plan.min_rounds


@pytest.mark.parametrize(("processes", "words"), [(1, "assumed"), (4, "assumed"), (5, "differs between processes")])
def test_a_report_says_what_its_intervals_cover(tiny: Path, processes: int, words: str) -> None:
    plan = msgspec.structs.replace(SHORT.plan, processes=processes, max_processes=processes, budget_ns=10**11)
    results = run_bench([tiny, tiny], FEEDS, msgspec.structs.replace(SHORT, plan=plan))
    assert len(results[0].samples_ns) == processes
    assert words in covered(results)


def test_nothing_to_feed(tiny: Path) -> None:
    with pytest.raises(InputError, match="no input"):
        run_bench([tiny], [], SHORT)


def test_this_machine_describes_itself() -> None:
    env = describe(threads=0, onnxruntime="1.0", load_average=0.5)
    assert env.threads == env.cores >= 1
    assert env.cpu
