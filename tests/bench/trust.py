#!/usr/bin/env python3
"""Whether verdicts on speed are true: identical models, one with 5 % more work, a bare loop, all cores and one.

    python tests/bench/trust.py [--quick] [--only WORDS] [--samples FILE] [--old MODELOPT]

Prints a table for each part, while nothing else should run on the machine. An hour; five minutes with --quick.

recorded   30 pairs of fresh processes of one model for each condition. Groups of pairs are drawn from them and given
           to the rule that `modelopt bench` follows: thousands of comparisons of identical models, of one with 3 % more
           work, and the same for two controls: processes one after the other, and one pair with an interval over its
           rounds, which is what this tool did before.
live       whole comparisons by that rule, of identical models and against one with 5 % more work.
bare       the median latency beside that of a loop around session.run in fresh processes, in turn.
causes     what scatters and what shifts a comparison of identical models, one change at a time.

--only takes parts and conditions, for example ``recorded,2ms``. --samples keeps what was recorded, or uses it where the
file is there. --old is the command of an earlier version, whose time for a comparison is printed beside.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modelopt.measure import bench, schedule, speed
from modelopt.measure.bench import BenchSpec, run_bench
from modelopt.measure.resample import student_quantile
from modelopt.measure.schedule import Plan
from modelopt.measure.speed import Processes, Verdict
from modelopt.measure.stats import proportion_interval
from modelopt.runtime import cores, watch
from modelopt.runtime.session import SessionSpec
from tests.bench.trust_simulation import simulate, within_one_process

_PLAN = Plan()
_LAYERS = 20
_SHAPES = {"0.1ms": (64, 24), "2ms": (256, 128), "50ms": (1024, 256)}
"""Width of the layers and rows of the input; the names are what one took on the machine they were chosen on."""
_SIMULATED = 4000
_LONGER_S = 120


@dataclass(frozen=True)
class Condition:
    """A model, on some cores, beside another program or not."""

    model: str
    threads: int
    hog: bool

    @property
    def name(self) -> str:
        return f"{self.model}, {'one thread' if self.threads else 'all cores'}, {'a hog' if self.hog else 'idle'}"


CONDITIONS = [
    Condition(m, threads, hog) for hog in (False, True) for threads in (0, 1) for m in ("2ms", "0.1ms", "50ms")
]


def write_model(path: Path, shape: tuple[int, int], layers: int) -> None:
    """A chain of MatMul and Tanh."""
    rng, (width, rows) = np.random.default_rng(0), shape
    weights = [(rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32) for _ in range(layers)]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i + 1}"]))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]) for name in ("t0", f"t{layers}")]
    stored = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def feeds(model: str) -> list[dict[str, np.ndarray]]:
    width, rows = _SHAPES[model]
    return [{"t0": np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)}]


@contextlib.contextmanager
def hog(condition: Condition) -> Iterator[None]:
    """Another program that keeps one core busy, where the condition has one."""
    if not condition.hog:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def compare(a: Path, b: Path, condition: Condition, plan: Plan = _PLAN) -> tuple[speed.Ratio, list[Processes], float]:
    """Time two models; the ratio, the samples of both, and the seconds that it took."""
    started = time.monotonic()
    spec = BenchSpec(session=SessionSpec(threads=condition.threads), plan=plan)
    with hog(condition):
        first, second = run_bench([a, b], feeds(condition.model), spec)
    took = time.monotonic() - started - 0.5 * condition.hog
    return second.times_as_fast_as(first), [first.samples_ns, second.samples_ns], took


# Parts


def recorded(conditions: Sequence[Condition], models: dict[str, Path], pairs: int, file: Path | None) -> None:
    """Simulated comparisons from recorded pairs."""
    known: dict[str, list[Processes]] = {}
    if file is not None and file.exists():
        known = msgspec.json.decode(file.read_bytes(), type=dict[str, list[list[list[list[int]]]]])
    table(
        "Recorded: comparisons drawn from pairs of processes of one model",
        *("condition", "pairs", "spread of a pair", "mean ratio", "false verdicts", "coverage", "3 % more found"),
        *(
            "pairs used",
            "seconds",
            "3 % more found in 120 s",
            "one after the other: false",
            "one pair, over rounds: false",
        ),
    )
    everything: list[float] = []
    for condition in conditions:
        if condition.name not in known:
            plan = msgspec.structs.replace(_PLAN, processes=pairs, max_processes=pairs, budget_ns=10**13)
            started = time.monotonic()
            _, samples, _ = compare(models[condition.model], models[condition.model], condition, plan)
            known[condition.name] = [*samples, [[[round((time.monotonic() - started) / pairs * 1e9)] * 2]]]
            if file is not None:
                file.write_bytes(msgspec.json.encode(known))
        first, second, ((took, *_),) = known[condition.name]
        logs = speed.log_ratios(first, second)
        everything.extend(logs)
        group_s = took[0] / 1e9
        most, later = (max(1, int(seconds / group_s)) for seconds in (_PLAN.budget_ns / 1e9, _LONGER_S))
        same = simulate(logs, _PLAN, most, _SIMULATED)
        longer = simulate(logs + np.log(1.03), _PLAN, later, _SIMULATED, center=np.log(1.03))
        more = simulate(logs + np.log(1.03), _PLAN, most, _SIMULATED, center=np.log(1.03))
        apart, alone = controls(first, second)
        row(
            condition.name,
            len(logs),
            f"{logs.std(ddof=1):.1%}",
            mean_ratio(logs),
            f"{same.false:.1%}",
            f"{same.covered:.1%}",
            f"{more.found:.0%}",
            f"{same.pairs:.0f}",
            f"{same.pairs * group_s:.0f}",
            f"{longer.found:.0%}",
            f"{apart:.0%}",
            f"{alone:.0%}",
        )
    print(f"\nAll conditions together: mean ratio {mean_ratio(np.array(everything))} (95 % interval), no bias is 1.\n")


def mean_ratio(logs: np.ndarray) -> str:
    half = student_quantile(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, point, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return f"{point:.4f} ({low:.4f}–{high:.4f})"


def controls(first: Processes, second: Processes) -> tuple[float, float]:
    """How often two worse methods call identical models different.

    One after the other: the mean of all runs of a process against the next group's, with an interval over runs. One
    pair: an interval over the rounds of a single pair of processes, and verdicts from 2 % on.
    """
    wrong = []
    for a, b in zip(first, second[1:], strict=False):
        x, y = (np.array([run for samples in rounds for run in samples], np.float64) for rounds in (a, b))
        error = np.hypot(x.std(ddof=1) / x.mean() / np.sqrt(len(x)), y.std(ddof=1) / y.mean() / np.sqrt(len(y)))
        wrong.append(abs(np.log(x.mean() / y.mean())) > 1.96 * error)
    alone = [within_one_process(a, b) for a, b in zip(first, second, strict=True)]
    return float(np.mean(wrong)), float(np.mean(alone))


def live(conditions: Sequence[Condition], models: dict[str, Path], quick: bool, old: str | None) -> None:
    """Whole comparisons."""
    table(
        "Live: whole comparisons",
        *("condition", "identical: verdicts", "(95 % interval)", "5 % more work: found slower", "(95 % interval)"),
        *("seconds a comparison", "pairs", *(["seconds before"] if old else [])),
    )
    for condition in conditions:
        main = condition == CONDITIONS[0]
        same_n, more_n = (8, 4) if quick else (40, 20) if main else (10, 10)
        copy, larger = models[f"{condition.model} copy"], models[f"{condition.model} larger"]
        model = models[condition.model]
        same = [compare(model, copy, condition) for _ in range(same_n)]
        more = [compare(model, larger, condition) for _ in range(more_n)]
        false = sum(ratio.verdict in {Verdict.FASTER, Verdict.SLOWER} for ratio, *_ in same)
        found = sum(ratio.verdict is Verdict.SLOWER for ratio, *_ in more)
        row(
            condition.name,
            f"{false} of {same_n}",
            proportion(false, same_n),
            f"{found} of {more_n}",
            proportion(found, more_n),
            f"{statistics.median(took for *_, took in same):.0f}",
            f"{statistics.median(ratio.processes for ratio, *_ in same):.0f}",
            *([f"{before(old, model, copy, condition):.1f}"] if old else []),
        )
    print()


def before(old: str, a: Path, b: Path, condition: Condition) -> float:
    """Seconds of a comparison by an earlier version."""
    started = time.monotonic()
    with hog(condition):
        words = [old, "bench", str(a), str(b), "--threads", str(condition.threads), "-q"]
        subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - started - 0.5 * condition.hog


def proportion(count: int, n: int) -> str:
    found = proportion_interval(count, n)
    return f"{found.low:.0%}–{found.high:.0%}"


_BARE = """
import sys, time, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rows, width = session.get_inputs()[0].shape
feeds = {"t0": np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)}
samples, end = [], time.perf_counter() + 0.6
while time.perf_counter() < end:
    started = time.perf_counter_ns()
    session.run(None, feeds)
    samples.append(time.perf_counter_ns() - started)
print(np.median(samples[len(samples) // 3 :]))
"""


def bare(conditions: Sequence[Condition], models: dict[str, Path], times: int) -> None:
    """The median beside a bare loop's."""
    table("Bare: the median beside that of a loop around session.run", "condition", "ours / bare (95 % interval)", "n")
    one = msgspec.structs.replace(_PLAN, processes=1, max_processes=1)
    for condition in conditions:
        logs = []
        spec = BenchSpec(session=SessionSpec(threads=condition.threads), plan=one)
        with hog(condition):
            for turn in range(times):
                pair: dict[bool, float] = {}
                for ours in (turn % 2 == 0, turn % 2 == 1):
                    path = models[condition.model]
                    if ours:
                        (first, _) = run_bench([path, path], feeds(condition.model), spec)
                        pair[ours] = first.median_ns
                    else:
                        words = [sys.executable, "-c", _BARE, str(path), str(condition.threads)]
                        pair[ours] = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                logs.append(np.log(pair[True] / pair[False]))
        row(condition.name, mean_ratio(np.array(logs)), times)
    print()


def causes(models: dict[str, Path], pairs: int) -> None:
    """What scatters or shifts a comparison of identical models."""
    table(
        "Causes: the same model in pairs of fresh processes, one change at a time",
        *("condition", "what is changed", "spread of a pair", "of it within a process", "mean ratio"),
    )
    plan = msgspec.structs.replace(_PLAN, processes=pairs, max_processes=pairs, budget_ns=10**13)
    long = msgspec.structs.replace(plan, slice_ns=30_000_000, min_rounds=10)
    short = msgspec.structs.replace(plan, slice_ns=1_000_000, max_rounds=200)
    for condition in (Condition("2ms", 0, hog=False), Condition("2ms", 1, hog=False)):
        model = models["2ms"]
        for what, tried, changed in (
            ("nothing", plan, contextlib.nullcontext()),
            ("slices of 30 ms for 4 ms", long, contextlib.nullcontext()),
            ("slices of 1 ms", short, contextlib.nullcontext()),
            ("the watching thread looks every 1 ms", plan, looking(0.001)),
            ("the watching thread looks every 50 ms", plan, looking(0.05)),
            ("no lead-in after another process's slice", plan, without_lead_in()),
            ("each process on the core it happens to sit on", plan, not_placed()),
            ("the same process starts first every time", plan, same_order()),
        ):
            with changed:
                _, (first, second), _ = compare(model, model, condition, tried)
            logs = speed.log_ratios(first, second)
            inside = speed._rounds_error(first, second)
            row(condition.name, what, f"{logs.std(ddof=1):.2%}", f"{inside:.2%}", mean_ratio(logs))
    print()


def looking(seconds: float) -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(watch, "_CALM_SECONDS", seconds)


def without_lead_in() -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(schedule, "_LEAD_IN_NS", 0)


def not_placed() -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(cores, "confine", return_value=None)


def same_order() -> contextlib.AbstractContextManager[object]:
    group = bench._group

    def first(entrants: Any, feeds: Any, _number: int, threads: int, limits: Any) -> Any:
        return group(entrants, feeds, 0, threads, limits)

    return unittest.mock.patch.object(bench, "_group", first)


# Printing


def table(title: str, *header: str) -> None:
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five minutes: the 2 ms model on an idle machine")
    parser.add_argument("--only", default="", help="parts, models, 'all cores', 'one thread', 'idle', 'a hog'")
    parser.add_argument("--samples", type=Path, help="keep or use the recorded samples")
    parser.add_argument("--old", help="the command of an earlier version")
    given = parser.parse_args()
    words = [word.strip() for word in given.only.split(",") if word.strip()]
    named = ("recorded", "live", "bare", "causes")
    parts = [part for part in named if part in words] or list(named)
    rest = [word for word in words if word not in named]
    chosen = [c for c in CONDITIONS if all(word in c.name.split(", ") for word in rest)]
    if given.quick:
        chosen = [c for c in chosen if c.model == "2ms" and not c.hog]
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores; load {os.getloadavg()[0]:.1f}. {time.strftime('%H:%M')}: begun.")
    with tempfile.TemporaryDirectory() as scratch:
        models: dict[str, Path] = {}
        for name, shape in _SHAPES.items():
            models |= {f"{name}{kind}": Path(scratch) / f"{name}{kind}.onnx" for kind in ("", " copy", " larger")}
            for kind, layers in (("", _LAYERS), (" copy", _LAYERS), (" larger", _LAYERS + 1)):
                write_model(models[f"{name}{kind}"], shape, layers)
        if "recorded" in parts:
            recorded(chosen, models, 16 if given.quick else 30, given.samples)
        if "live" in parts:
            live(chosen, models, given.quick, given.old)
        if "bare" in parts:
            bare([c for c in chosen if not c.hog], models, 8 if given.quick else 20)
        if "causes" in parts and not given.quick:
            causes(models, 20)
    print(f"{time.strftime('%H:%M')}: done.")


if __name__ == "__main__":
    main()
