"""Reports of runs that never happened, for tests of what is concluded from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from modelopt.core.changes import Skip
from modelopt.measure.environment import describe
from modelopt.measure.latency import BenchResult
from modelopt.report import FileInfo, ModelStats, Outcome, PassResult, Report, Trial

ENVIRONMENT = describe(threads=1, onnxruntime="1", load_average=None)
STATS = ModelStats(nodes=1, weight_bytes=1)


def result(step: str, effect: str, rewrites: int, *reasons: str) -> PassResult:
    """What the engine says of one pass."""
    skipped = tuple(Skip("n", reason) for reason in reasons)
    return PassResult(
        step=step, effect=effect, rewrites=rewrites, skipped=skipped, facts={}, wall_ns=1, before=STATS, after=STATS
    )


def trial(group: str, outcome: Outcome, reason: str = "a reason") -> Trial:
    """What the search says of one candidate."""
    return Trial(group=group, rewrites=1, kept=outcome is Outcome.KEPT, outcome=outcome, reason=reason)


def report(*passes: PassResult, trials: Sequence[Trial] = (), written: bool = True, **more: Any) -> Report:
    """The report of a run in which the model shrank from 1000 to 400 bytes; `more` are other fields of it."""
    return Report(
        input=FileInfo(path="m.onnx", size_bytes=1000),
        output=FileInfo(path="x.onnx", size_bytes=400),
        written=written,
        recipe="",
        target="",
        seed=0,
        passes=passes,
        verification=None,
        latency=None,
        accuracy=None,
        notes=(),
        versions={},
        trials=tuple(trials),
        **({"gates": ()} | more),
    )


def timed(
    runs_ns: Sequence[int],
    *,
    peaks: Sequence[int] = (100,),
    loads: Sequence[int] = (100,),
    first_run_ns: int = 1,
    **env: Any,
) -> BenchResult:
    """What timing says of a model that takes `runs_ns` in one process after another.

    Args:
        runs_ns: Nanoseconds of each run of a process, one figure for each process.
        peaks: Peak memory of each process in bytes; one figure stands for all.
        loads: Nanoseconds that each process took to create a session; one figure stands for all.
        first_run_ns: Nanoseconds of the first run of each.
        env: Fields of the environment.
    """
    n = len(runs_ns)
    return BenchResult(
        path="m.onnx",
        samples_ns=tuple(((ns, ns), (ns, ns)) for ns in runs_ns),
        first_runs_ns=(first_run_ns,) * n,
        loads_ns=tuple(loads) if len(loads) > 1 else tuple(loads) * n,
        warmup_runs=1,
        peaks_bytes=tuple(peaks) if len(peaks) > 1 else tuple(peaks) * n,
        wall_ns=20_000_000_000,
        providers=(),
        node_providers={},
        env=msgspec.structs.replace(ENVIRONMENT, **env),
        warnings=(),
    )
