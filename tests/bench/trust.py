#!/usr/bin/env python3
"""Whether verdicts on speed are true: identical models, one with 5 % more work, a bare loop, all cores and one.

    python tests/bench/trust.py [--quick] [--only WORDS] [--samples FILE] [--old MODELOPT]

Prints a table for each part, while nothing else should run on the machine. An hour; five minutes with --quick.

live       whole comparisons of a model with its copy and with one that has 5 % more work: 40 and 20 for the 2 ms model
           on all cores, ten and ten for each other condition, where the three are timed together.
drawn      the pairs of processes of model and copy that were recorded there, put together anew: thousands of
           comparisons of identical models and of one with 3 % more work, by the rule that `modelopt bench` follows.
           Beside it two controls: processes one after the other, and one pair with an interval over its rounds, which
           is what this tool did before.
bare       the median latency beside that of a loop around session.run in fresh processes, in turn.
causes     what scatters and what shifts a comparison of identical models, one change at a time.

--only takes parts and conditions, for example ``live,2ms``. --samples keeps what was recorded, or draws from it where
the file is there. --old is the command of an earlier version, whose time for a comparison is printed beside.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modelopt.measure import latency, schedule, speed
from modelopt.measure.latency import TimingSpec, run_bench
from modelopt.measure.resample import bootstrap, student_quantile, trimmed_mean
from modelopt.measure.schedule import TimingPlan
from modelopt.measure.speed import Processes, Ratio, Verdict
from modelopt.measure.stats import proportion_interval
from modelopt.runtime import cores, limits
from modelopt.runtime.session import SessionSpec
from tests.bench.trust_simulation import simulate, within_one_process

_PLAN = TimingPlan(budget_ns=30_000_000_000)
_LAYERS = 20
_SHAPES = {"0.1ms": (64, 24), "2ms": (256, 128), "50ms": (1024, 256)}
"""Width of the layers and rows of the input; the names are what one took on the machine they were chosen on."""
_SIMULATED = 4000
_LONGER_S = 60


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


class Comparison(msgspec.Struct, frozen=True):
    """One whole comparison: the samples of the model and of what it was compared with, by name, and its seconds."""

    samples_ns: dict[str, list[list[list[int]]]]
    seconds: float

    def ratio(self, other: str) -> Ratio:
        return speed.paired_ratio(self.samples_ns["model"], self.samples_ns[other])

    @property
    def pair_seconds(self) -> float:
        """What one pair of processes cost, where more models than two ran: their share."""
        return self.seconds / len(self.samples_ns["model"]) * 2 / len(self.samples_ns)


def compare(models: Mapping[str, Path], condition: Condition, plan: TimingPlan = _PLAN) -> Comparison:
    """Time models beside each other; the first is called ``model``."""
    spec = TimingSpec(session=SessionSpec(threads=condition.threads), plan=plan)
    with hog(condition):
        started = time.monotonic()
        results = run_bench(list(models.values()), feeds(condition.model), spec)
        took = time.monotonic() - started
    samples = {
        name: msgspec.convert(each.samples_ns, list[list[list[int]]])
        for name, each in zip(models, results, strict=True)
    }
    return Comparison(samples, took)


def compare_alike(path: Path, condition: Condition, plan: TimingPlan) -> tuple[Processes, Processes]:
    """The samples of one model timed beside itself."""
    found = compare({"model": path, "copy": path}, condition, plan).samples_ns
    return found["model"], found["copy"]


# Parts


def live(
    conditions: Sequence[Condition], models: Mapping[str, Path], quick: bool, old: str | None
) -> dict[str, list[Comparison]]:
    """Whole comparisons, by the name of their condition."""
    table(
        "Live: whole comparisons",
        *("condition", "identical: verdicts", "(95 % interval)", "5 % more work: found slower", "(95 % interval)"),
        *("models", "seconds a comparison", "pairs", *(["seconds of two models", "before"] if old else [])),
    )
    everything = {}
    for condition in conditions:
        named = {kind: models[f"{condition.model} {kind}"] for kind in ("model", "copy", "larger")}
        same, more = ({kind: named[kind] for kind in ("model", other)} for other in ("copy", "larger"))
        together = [named] * (6 if quick else 10)
        asked = [same] * 40 + [more] * 20 if condition == CONDITIONS[0] and not quick else together
        found = everything[condition.name] = [compare(each, condition) for each in asked]
        verdicts = {
            kind: [each.ratio(kind).verdict for each in found if kind in each.samples_ns] for kind in ("copy", "larger")
        }
        false = sum(verdict in {Verdict.FASTER, Verdict.SLOWER} for verdict in verdicts["copy"])
        slower = sum(verdict is Verdict.SLOWER for verdict in verdicts["larger"])
        row(
            condition.name,
            f"{false} of {len(verdicts['copy'])}",
            proportion(false, len(verdicts["copy"])),
            f"{slower} of {len(verdicts['larger'])}",
            proportion(slower, len(verdicts["larger"])),
            len(asked[0]),
            f"{statistics.median(each.seconds for each in found):.0f}",
            f"{statistics.median(len(each.samples_ns['model']) for each in found):.0f}",
            *([f"{compare(same, condition).seconds:.1f}", f"{before(old, same, condition):.1f}"] if old else []),
        )
    print()
    return everything


def drawn(recorded: Mapping[str, Sequence[Comparison]]) -> None:
    """Comparisons put together from recorded pairs of processes of one model."""
    table(
        "Drawn: comparisons put together from the recorded pairs of model and copy",
        *("condition", "pairs", "spread of a pair", "mean ratio", "false verdicts", "coverage"),
        *("3 % more found", "seconds", f"3 % more found in {_LONGER_S} s", "seconds"),
        *("one after the other: false", "one pair, over rounds: false"),
    )
    means, errors = [], []
    for name, comparisons in recorded.items():
        of_copies = [each for each in comparisons if "copy" in each.samples_ns]
        first, second = ([p for c in of_copies for p in c.samples_ns[kind]] for kind in ("model", "copy"))
        logs = speed.log_ratios(first, second)
        means.append(logs.mean())
        errors.append(logs.std(ddof=1) / np.sqrt(len(logs)))
        pair_s = statistics.median(each.pair_seconds for each in comparisons)
        shorter_n, longer_n = (max(1, int(seconds / pair_s)) for seconds in (_PLAN.budget_ns / 1e9, _LONGER_S))
        same = simulate(logs, _PLAN, shorter_n, _SIMULATED)
        more, longer = (
            simulate(logs + np.log(1.03), _PLAN, most, _SIMULATED, center=np.log(1.03))
            for most in (shorter_n, longer_n)
        )
        apart, alone = controls(first, second)
        row(
            name,
            len(logs),
            f"{logs.std(ddof=1):.1%}",
            mean_ratio(logs),
            f"{same.false:.1%}",
            f"{same.covered:.1%}",
            f"{more.found:.0%}",
            f"{more.pairs * pair_s:.0f}",
            f"{longer.found:.0%}",
            f"{longer.pairs * pair_s:.0f}",
            f"{apart:.0%}",
            f"{alone:.0%}",
        )
    weights = np.array(errors) ** -2.0
    middle, half = np.average(means, weights=weights), 1.96 / np.sqrt(weights.sum())
    low, point, high = np.exp(np.array([middle - half, middle, middle + half], np.float64))
    print(f"\nAll conditions, each by its precision: mean ratio {point:.4f} ({low:.4f}–{high:.4f}); 1 is no bias.\n")


def mean_ratio(logs: np.ndarray) -> str:
    half = student_quantile(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, point, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return f"{point:.4f} ({low:.4f}–{high:.4f})"


def trimmed_ratio(logs: np.ndarray) -> str:
    low, high = bootstrap(len(logs), lambda rows: trimmed_mean(logs[rows]), 0.95, 4000, 0)
    low, point, high = np.exp(np.array([low, float(trimmed_mean(logs)), high]))
    return f"{point:.4f} ({low:.4f}–{high:.4f})"


def controls(first: Processes, second: Processes) -> tuple[float, float]:
    """How often two worse methods call identical models different.

    One after the other: the mean of all runs of a process against the next group's, with an interval over runs. One
    pair: an interval over the rounds of a single pair of processes, and verdicts from 2 % on.
    """
    wrong = []
    for a, b in ((first[i], second[i + 1]) for i in range(len(first) - 1)):
        x, y = (np.array([run for samples in rounds for run in samples], np.float64) for rounds in (a, b))
        error = np.hypot(x.std(ddof=1) / x.mean() / np.sqrt(len(x)), y.std(ddof=1) / y.mean() / np.sqrt(len(y)))
        wrong.append(abs(np.log(x.mean() / y.mean())) > 1.96 * error)
    alone = [within_one_process(a, b) for a, b in zip(first, second, strict=True)]
    return float(np.mean(wrong)), float(np.mean(alone))


def before(old: str, models: Mapping[str, Path], condition: Condition) -> float:
    """Seconds of a comparison by an earlier version."""
    words = [old, "bench", *map(str, models.values()), "--threads", str(condition.threads), "-q"]
    with hog(condition):
        started = time.monotonic()
        subprocess.run(words, check=True, capture_output=True)
        return time.monotonic() - started


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


def bare(conditions: Sequence[Condition], models: Mapping[str, Path], times: int) -> None:
    """The median beside a bare loop's, on the same cores: one thread of each takes one core of the machine in turn.

    The mean of the logarithms is over all pairs but the lowest and the highest fifth: a bare loop on all cores is three
    times as slow as usual while its main thread sits on the core of another one.
    """
    table("Bare: the median beside that of a loop around session.run", "condition", "ours / bare (95 % interval)", "n")
    one = msgspec.structs.replace(_PLAN, processes=1, max_processes=1)
    everywhere = sorted(os.sched_getaffinity(0))
    for condition in conditions:
        spec = TimingSpec(session=SessionSpec(threads=condition.threads), plan=one)
        path = models[f"{condition.model} model"]
        words = [sys.executable, "-c", _BARE, str(path), str(condition.threads)]
        logs = []
        for turn in range(times):
            if condition.threads == 1:
                os.sched_setaffinity(0, {everywhere[turn // 2 % len(everywhere)]})
            pair: dict[bool, float] = {}
            for ours in (turn % 2 == 0, turn % 2 == 1):
                if ours:
                    pair[ours] = run_bench([path, path], feeds(condition.model), spec)[0].median_ns
                else:
                    pair[ours] = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            logs.append(np.log(pair[True] / pair[False]))
            os.sched_setaffinity(0, everywhere)
        row(condition.name, trimmed_ratio(np.array(logs)), times)
    print()


def causes(models: Mapping[str, Path], pairs: int) -> None:
    """What scatters or shifts a comparison of identical models."""
    table(
        "Causes: the same model in pairs of fresh processes, one change at a time",
        *("condition", "what is changed", "spread of a pair", "mean ratio"),
    )
    plan = msgspec.structs.replace(_PLAN, processes=pairs, max_processes=pairs, budget_ns=10**13)
    long = msgspec.structs.replace(plan, slice_ns=30_000_000, min_rounds=10)
    for condition in (Condition("2ms", 0, hog=False), Condition("2ms", 1, hog=False)):
        for what, tried, changed in (
            ("nothing", plan, contextlib.nullcontext()),
            ("slices of 30 ms for 4 ms", long, contextlib.nullcontext()),
            ("the watching thread looks every 1 ms", plan, looking(0.001)),
            ("no lead-in after another process's slice", plan, without_lead_in()),
            ("each process on the core it happens to sit on", plan, not_placed()),
            ("the same process starts first every time", plan, same_order()),
        ):
            with changed:
                first, second = compare_alike(models["2ms model"], condition, tried)
            logs = speed.log_ratios(first, second)
            row(condition.name, what, f"{logs.std(ddof=1):.2%}", mean_ratio(logs))
    print()


def looking(seconds: float) -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(limits, "_CALM_SECONDS", seconds)


def without_lead_in() -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(schedule, "_LEAD_IN_NS", 0)


def not_placed() -> contextlib.AbstractContextManager[object]:
    return unittest.mock.patch.object(cores, "confine", return_value=None)


def same_order() -> contextlib.AbstractContextManager[object]:
    group = latency._group

    def first(entrants: Any, feeds: Any, _number: int, threads: int, limits: Any) -> Any:
        return group(entrants, feeds, 0, threads, limits)

    return unittest.mock.patch.object(latency, "_group", first)


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
    named = ("live", "drawn", "bare", "causes")
    parts = [part for part in named if part in words] or list(named)
    rest = [word for word in words if word not in named]
    chosen = [c for c in CONDITIONS if all(word in c.name.split(", ") for word in rest)]
    if given.quick:
        chosen = [c for c in chosen if c.model == "2ms" and not c.hog]
    print(f"{len(os.sched_getaffinity(0))} cores; load {os.getloadavg()[0]:.1f}. {time.strftime('%H:%M')}: begun.")
    with tempfile.TemporaryDirectory() as scratch:
        models: dict[str, Path] = {}
        for name, shape in _SHAPES.items():
            for kind, layers in (("model", _LAYERS), ("copy", _LAYERS), ("larger", _LAYERS + 1)):
                models[f"{name} {kind}"] = Path(scratch) / f"{name}_{kind}.onnx"
                write_model(models[f"{name} {kind}"], shape, layers)
        recorded: dict[str, list[Comparison]] = {}
        if given.samples is not None and given.samples.exists():
            recorded = msgspec.json.decode(given.samples.read_bytes(), type=dict[str, list[Comparison]])
        elif "live" in parts or "drawn" in parts:
            recorded = live(chosen, models, given.quick, given.old)
            if given.samples is not None:
                given.samples.write_bytes(msgspec.json.encode(recorded))
        if "drawn" in parts:
            drawn({c.name: recorded[c.name] for c in chosen if c.name in recorded})
        if "bare" in parts:
            bare([c for c in chosen if not c.hog], models, 12 if given.quick else 50)
        if "causes" in parts and not given.quick:
            causes(models, 15)
    print(f"{time.strftime('%H:%M')}: done.")


if __name__ == "__main__":
    main()
