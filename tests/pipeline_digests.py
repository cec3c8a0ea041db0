"""Prints the SHA-256 of what the folding and fusing pipelines make of each model that the command line names.

A test runs it as a process of its own, because the seed of Python's hashes is fixed when a process starts.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.engine import loop
from modelopt.io import serialize
from modelopt.recipe import pipelines
from modelopt.runtime.worker_runner import WorkerRunner

STEPS = (pipelines.until_stable(pipelines.FOLD), pipelines.until_stable(pipelines.FUSE))


def as_bytes(model: ir.Model) -> bytes:
    """What the engine would write, without its own entry."""
    graph.forget_shapes(model, keep=frozenset())
    return serialize.to_bytes(model)


def digest(path: Path, runner: WorkerRunner) -> str:
    """The SHA-256 of the model at `path` after the pipelines."""
    model = ir.from_proto(onnx.load(path))
    loop.apply(STEPS, model, Context(runner=runner, target=targets.resolve("x86-vnni")))
    return hashlib.sha256(as_bytes(model)).hexdigest()


if __name__ == "__main__":
    lent = WorkerRunner()
    for name in sys.argv[1:]:
        sys.stdout.write(f"{digest(Path(name), lent)}\n")
    lent.close()
