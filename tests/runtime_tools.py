"""Runs models on onnxruntime in the process of the test, and Python in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from modelopt.io import serialize
from tests.paths import ROOT


def session(
    model: ir.Model | bytes | Path, *, optimizer: bool = True, written: Path | None = None
) -> ort.InferenceSession:
    """A session on one thread of the CPU that prints nothing.

    Args:
        model: A model, its bytes or its file.
        optimizer: Whether onnxruntime rewrites the model at load.
        written: Where onnxruntime writes what its optimizer made of the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimizer:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if written is not None:
        options.optimized_model_filepath = str(written)
    content = serialize.to_bytes(model) if isinstance(model, ir.Model) else model
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def printed_under_hash_seeds(arguments: Iterable[str | Path], seeds: Iterable[str]) -> list[str]:
    """What Python prints for these arguments under each seed, which is fixed when a process starts."""
    return [
        subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in seeds
    ]
