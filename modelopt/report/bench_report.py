"""The report of `bench` and `compare` as versioned data."""

from __future__ import annotations

import msgspec

from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.measure.speed import Ratio
from modelopt.report import FileInfo, GateResult
from modelopt.runtime.coverage import NodeTimes

SCHEMA = "modelopt-bench/4"


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench` and `compare` found.

    Attributes:
        schema: The version of this structure.
        models: The files, in order.
        source: What they ran on.
        results: Latency of each, in the same order; empty where it was not measured.
        ratios: How many times as fast as the first; None for the first itself.
        accuracy: Of the second against the first, None where it was not measured.
        noise: How the first model compared with its own copy; None where that was not asked for.
        layers: How long each node of each model takes; empty where that was not asked for.
        gates: The gates that were asked for, in order.
        warnings: What the reader should know.
    """

    schema: str = SCHEMA
    models: tuple[FileInfo, ...]
    source: str
    results: tuple[BenchResult, ...]
    ratios: tuple[Ratio | None, ...]
    accuracy: Accuracy | None
    noise: Ratio | None = None
    layers: tuple[NodeTimes, ...] = ()
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...]

    @property
    def command(self) -> str:
        """Whose report it is: only `compare` measures accuracy."""
        return "bench" if self.accuracy is None else "compare"
