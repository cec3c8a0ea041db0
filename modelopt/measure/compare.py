"""Two models side by side: size, latency, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.data.sample import Dataset
from modelopt.errors import InputError
from modelopt.measure.bench import BenchResult, BenchSpec, run_bench
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.measure.schedule import Progress, silent
from modelopt.measure.stats import Ratio
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Limits


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Model b held against model a; what was not measured is None.

    Attributes:
        size_a_bytes: Of a with its external data files.
        size_b_bytes: Of b with its external data files.
        bench_a: The latency of a.
        bench_b: The latency of b.
        ratio: How many times as fast b is.
        accuracy: a is the reference, b the candidate.
    """

    size_a_bytes: int
    size_b_bytes: int
    bench_a: BenchResult | None
    bench_b: BenchResult | None
    ratio: Ratio | None
    accuracy: Accuracy | None


def compare(
    a: Path,
    b: Path,
    *,
    size_of: Callable[[Path], int],
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    bench: BenchSpec | None = None,
    dataset: Dataset | None = None,
    metric: str | None = None,
    session: SessionSpec | None = None,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Measure b beside a.

    Args:
        a: The model to compare with, already through io's gate.
        b: The other one.
        size_of: The size in bytes of a model with its external data, e.g. io's or `model_size_bytes`.
        feeds: Inputs to time both on; none skips the timing.
        bench: How to time them.
        dataset: Samples to score both on; None skips the accuracy.
        metric: See `evaluate`.
        session: How to open sessions for the accuracy; None takes the bench's.
        limits: What each child may use.
        progress: Told what is being done.

    Raises:
        EnvironmentLacks: The provider is not there, or it ran no node of a model.
        InputError: The models take different inputs, or no metric has that name or suits the data.
        Refused: onnxruntime does not load or run a model.
        WorkerDied: A child crashed or exceeded its limits.
    """
    bench = bench or BenchSpec()
    accuracy = None
    if dataset is not None:
        accuracy = evaluate(a, b, dataset, session or bench.session, metric=metric, limits=limits, progress=progress)
    timed: list[BenchResult] = []
    if feeds:
        timed = run_bench([a, b], feeds, bench, limits=limits, progress=progress)
    return Comparison(
        size_a_bytes=size_of(a),
        size_b_bytes=size_of(b),
        bench_a=timed[0] if timed else None,
        bench_b=timed[1] if timed else None,
        ratio=timed[1].times_as_fast_as(timed[0]) if timed else None,
        accuracy=accuracy,
    )


def model_size_bytes(path: Path, model: ir.Model) -> int:
    """The size of a model file and of the external data files that it names, each counted once.

    Args:
        path: The model file.
        model: What was loaded from it; only the tensors' locations are read.

    Raises:
        InputError: One of the files is not there.
    """
    files = {path.resolve()}
    for _, tensor in graph.tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            files.add((path.parent / tensor.location).resolve())
    missing = sorted(str(file) for file in files if not file.is_file())
    if missing:
        raise InputError(f"{missing[0]} is not there", note=f"{path.name} keeps weights in it")
    return sum(file.stat().st_size for file in files)
