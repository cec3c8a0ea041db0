"""Warnings and placement on simulated timings; one bench of a real tiny model that asserts no time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import modelopt.measure.latency as bench_module
from modelopt.cli import bench_cmd
from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.measure import timing_warnings
from modelopt.measure.environment import Environment, describe
from modelopt.measure.latency import BenchResult, TimingSpec, run_bench
from modelopt.measure.schedule import (
    ProcessTimings,
    TimingPlan,
)
from modelopt.recipe import recipe as recipes
from modelopt.report.summary import covered
from modelopt.runtime.placement import Placement, placement_of
from modelopt.runtime.session import NodeRun, SessionSpec

MS = 1_000_000


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
    assert min(*first.first_runs_ns, *first.loads_ns, *first.peaks_bytes, first.warmup_runs, first.median_ns) > 0
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
