"""Scheduling, warnings and placement on simulated timers; one bench of a real tiny model that asserts no time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import modelopt.measure.bench as bench_module
from modelopt.errors import EnvironmentLacks, InputError
from modelopt.measure import cautions
from modelopt.measure.bench import BenchResult, BenchSpec, run_bench
from modelopt.measure.environment import Environment, describe
from modelopt.measure.schedule import Plan, time_rounds
from modelopt.measure.stats import Verdict, paired_ratio
from modelopt.runtime.placement import Placement, placement_of
from modelopt.runtime.session import NodeRun, SessionSpec

MS = 1_000_000


class Machine:
    """A simulated machine: each model has a latency, which noise and drift distort."""

    def __init__(self, latencies_ns: list[int], *, noise: float = 0.0, drift_per_call: float = 0.0) -> None:
        self.latencies_ns = latencies_ns
        self.noise = noise
        self.drift_per_call = drift_per_call
        self.calls: list[tuple[int, int, int]] = []
        self._rng = np.random.default_rng(0)

    def __call__(self, model: int, feed: int, runs: int) -> list[int]:
        self.calls.append((model, feed, runs))
        level = self.latencies_ns[model] * (1 + feed) * (1 + self.drift_per_call * len(self.calls))
        return [int(level * np.exp(self._rng.normal(0, self.noise))) for _ in range(runs)]


def test_quiet_models_stop_at_the_fewest_rounds() -> None:
    machine = Machine([3 * MS, 2 * MS])
    timings = time_rounds(machine, 2, 1, Plan())
    assert [len(each.rounds) for each in timings] == [10, 10]
    assert [each.runs_per_round for each in timings] == [10, 15]  # slices of 30 ms
    assert all(each.settled for each in timings)


def test_noisy_models_go_on_until_the_budget_is_spent() -> None:
    plan = Plan(budget_ns=3_000 * MS, max_rounds=10_000)
    timings = time_rounds(Machine([3 * MS, 3 * MS], noise=1.0), 2, 1, plan)
    spent = sum(sum(samples) for each in timings for samples in each.rounds)
    assert 3_000 * MS <= spent < 3_500 * MS


def test_a_huge_model_still_gets_ten_rounds_and_a_tiny_one_not_too_many_runs() -> None:
    huge, tiny = time_rounds(Machine([5_000 * MS, 1_000]), 2, 1, Plan(budget_ns=MS))
    assert len(huge.rounds) == len(tiny.rounds) == 10
    assert huge.runs_per_round == 1
    assert tiny.runs_per_round == 500


def test_the_order_alternates_and_a_round_times_one_feed() -> None:
    machine = Machine([30 * MS, 30 * MS])
    timings = time_rounds(machine, 2, 2, Plan())
    warmup = sum(each.warmup_runs for each in timings)
    rounds = machine.calls[warmup:]
    assert [model for model, _, _ in rounds[:8]] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [feed for _, feed, _ in rounds[:8]] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_drift_does_not_look_like_a_difference() -> None:
    a, b = time_rounds(Machine([30 * MS, 30 * MS], drift_per_call=0.02), 2, 1, Plan())
    assert paired_ratio(a.rounds, b.rounds).verdict is Verdict.NO_DIFFERENCE


def test_stopping_early_does_not_invent_differences() -> None:
    wrong = 0
    for trial in range(60):
        machine = Machine([10 * MS, 10 * MS], noise=0.1)
        machine._rng = np.random.default_rng(trial)
        a, b = time_rounds(machine, 2, 1, Plan(budget_ns=2_000 * MS))
        wrong += paired_ratio(a.rounds, b.rounds).verdict is not Verdict.NO_DIFFERENCE
    assert wrong <= 3


def test_a_known_ratio_is_recovered_over_unlike_feeds() -> None:
    a, b = time_rounds(Machine([29 * MS, 20 * MS], noise=0.02), 2, 4, Plan())
    found = paired_ratio(a.rounds, b.rounds)
    assert found.verdict is Verdict.FASTER
    assert found.point == pytest.approx(1.45, rel=0.02)
    assert len(a.rounds) % 4 == 0


def test_a_latency_that_never_settles_is_noticed() -> None:
    (timing,) = time_rounds(Machine([MS], drift_per_call=0.5), 1, 1, Plan(warmup_ns=50 * MS, max_rounds=10))
    assert not timing.settled


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int | None]] = []
    time_rounds(Machine([MS]), 1, 1, Plan(), lambda *told: seen.append(told))
    assert len(seen) == 10
    assert seen[0][0] == "timing"


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
    assert list(cautions.of_environment(QUIET)) == []
    busy = msgspec.structs.replace(QUIET, load_average=9.0, threads=8, governor="powersave")
    load, threads, governor = cautions.of_environment(busy)
    assert "9.0 on 4" in load
    assert "--threads 4" in threads
    assert "performance" in governor

    plan = Plan()
    assert list(cautions.of_samples([[1000] * 100] * 10, n_feeds=1, settled=True, warmup_ns=10**9, plan=plan)) == []
    assert cautions.of_percentiles([[1000] * 100] * 10) is None
    few = cautions.of_percentiles([[1000] * 5] * 10)
    assert few == "50 samples are too few for p90, p95, p99: --rounds 20 gives p90"

    wild = [[1000] * 90 + [9000] * 10] * 5 + [[2000] * 100] * 5
    told = "\n".join(cautions.of_samples(wild, n_feeds=1, settled=False, warmup_ns=10**9, plan=plan))
    assert "--warmup 4" in told
    assert "noisy" in told


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
    plan, done = Plan(warmup_ns=int(asked_s * 1e9)), int(done_s * 1e9)
    assert list(cautions.of_samples([[1000] * 100] * 10, n_feeds=1, settled=False, warmup_ns=done, plan=plan)) == [told]


def test_the_time_of_the_warm_up_is_kept() -> None:
    (timing,) = time_rounds(Machine([MS], drift_per_call=0.5), 1, 1, Plan(warmup_ns=50 * MS, max_rounds=2))
    assert timing.warmup_ns >= 50 * MS


@pytest.mark.parametrize(("budget_s", "hint"), [(1.4, "--budget 2"), (0.1, "--budget 1"), (600, "±2.0%")])
def test_a_budget_is_named_where_a_larger_one_helps(budget_s: float, hint: str) -> None:
    told = cautions.of_precision(0.021, Plan(budget_ns=int(budget_s * 1e9)))
    assert told is not None
    assert told.endswith(hint)


def test_far_outliers_are_counted_per_feed() -> None:
    unlike = [[1000] * 100, [9000] * 100] * 5
    assert list(cautions.of_samples(unlike, n_feeds=2, settled=True, warmup_ns=10**9, plan=Plan())) == []
    struck = [[1000] * 95 + [9000] * 5] * 10
    (told,) = cautions.of_samples(struck, n_feeds=1, settled=True, warmup_ns=10**9, plan=Plan())
    assert told.startswith("50 of 1000 samples are far outliers")


def test_a_wide_interval_asks_for_a_larger_budget() -> None:
    assert cautions.of_precision(0.01, Plan()) is None
    told = cautions.of_precision(0.04, Plan())
    assert told is not None
    assert told.endswith("--budget 40")


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
SHORT = BenchSpec(session=SessionSpec(threads=1), plan=Plan(budget_ns=1, warmup_ns=1, slice_ns=1))


def test_a_real_bench_reports_all_that_it_measured(tiny: Path) -> None:
    first, second = run_bench([tiny, tiny], FEEDS, SHORT)
    assert len(first.samples_ns) == len(second.samples_ns) == 10
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
    monkeypatch.setattr(bench_module, "time_rounds", lambda *_: pytest.fail("timed"))
    with pytest.raises(EnvironmentLacks, match="CUDAExecutionProvider ran no node"):
        run_bench([tiny], FEEDS, SHORT)


def test_nothing_to_feed(tiny: Path) -> None:
    with pytest.raises(InputError, match="no input"):
        run_bench([tiny], [], SHORT)


def test_this_machine_describes_itself() -> None:
    env = describe(threads=0, onnxruntime="1.0")
    assert env.threads == env.cores >= 1
    assert env.cpu
