"""What `bench` and `compare` ask for: models, and how they are measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelopt import io
from modelopt.core.progress import Progress
from modelopt.data import MemoryData
from modelopt.recipe.recipe import BenchSpec, EvaluateSpec, Gates
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Models with the same signature, and how they are measured side by side.

    Attributes:
        models: Files; ratios are to the first.
        data: Inputs; None makes random ones.
        bench: How to measure latency; None does not.
        session: How to open sessions.
        baseline: How to open the first model's, where that differs.
        score: Whether to measure the accuracy of the second against the first.
        contract: The gates.
        by_layer: Whether to profile each model: how long each of its nodes takes.
        calibrate_noise: Whether to time the first model against its own copy first, and keep what that shows.
        free_dims: Sizes of free dimensions of random inputs.
        seed: For random inputs.
        data_flag: The flag that names inputs, for hints.
        limits: Of the child processes.
        accepted: What the files may be.
        memory: Data in memory, by how `data` calls them.
        progress: Called with (what, done, total or None).
    """

    models: Sequence[Path]
    data: EvaluateSpec | None
    bench: BenchSpec | None
    session: SessionSpec
    baseline: SessionSpec | None = None
    score: bool = False
    contract: Gates
    by_layer: bool = False
    calibrate_noise: bool = False
    free_dims: dict[str, int]
    seed: int
    data_flag: str
    limits: Limits | None
    accepted: io.Accepted
    memory: Mapping[str, MemoryData] | None = None
    progress: Progress
