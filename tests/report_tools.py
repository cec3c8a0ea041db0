"""Reports of runs that never happened, for tests of what is concluded from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelopt.core.changes import Skip
from modelopt.report import FileInfo, ModelStats, Outcome, PassResult, Report, Trial

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
