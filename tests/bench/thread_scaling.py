#!/usr/bin/env python3
"""How a float model and an int8 model gain by threads, by operator, with and without spinning threads.

    python tests/bench/thread_scaling.py FLOAT.onnx INT8.onnx FEEDS.npz [THREADS]

FEEDS holds one array for each input; the first row of each is fed. Times are medians of whole runs in milliseconds, and
means of an operator's kernels by onnxruntime's profiler.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort

RUNS = 60
MOST = 6


def profiled(
    model: str, feeds: dict[str, np.ndarray], threads: int, *, spin: bool = True
) -> tuple[float, Counter[str]]:
    """Milliseconds of a run, and of the kernels of each operator."""
    with TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(RUNS):
            started = time.perf_counter_ns()
            session.run(None, feeds)
            times.append((time.perf_counter_ns() - started) / 1e6)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kernels[event["args"]["op_name"]] += event["dur"] / 1e3 / RUNS
    return statistics.median(times), kernels


def main(models: list[str], feeds: dict[str, np.ndarray], threads: int) -> None:
    """Print a table."""
    print(f"| | 1 thread | {threads} threads | gain | {threads}, not spinning |\n|---|---|---|---|---|")
    for model in models:
        one, kernels = profiled(model, feeds, 1)
        many, parallel = profiled(model, feeds, threads)
        asleep, _ = profiled(model, feeds, threads, spin=False)
        print(f"| **{Path(model).name}** | {one:.2f} ms | {many:.2f} ms | {one / many:.2f} | {asleep:.2f} ms |")
        for name, ms in kernels.most_common(MOST):
            print(f"| {name} | {ms:.2f} ms | {parallel[name]:.2f} ms | {ms / max(parallel[name], 1e-9):.2f} | |")


if __name__ == "__main__":
    given = np.load(sys.argv[3])
    main(sys.argv[1:3], {name: given[name][:1] for name in given.files}, int(sys.argv[4]) if len(sys.argv) > 4 else 2)
