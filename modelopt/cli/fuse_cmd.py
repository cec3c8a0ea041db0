"""`modelopt fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


@click.command(
    "fuse",
    cls=options.Command,
    epilog="""\b
Examples:
  modelopt fuse model.onnx                      # writes model.fused.onnx
  modelopt fuse --explain model.onnx            # what was not fused, and why
  modelopt fuse --eval labelled.npz --min-speedup 1.1 model.onnx""",
)
@options.MODEL
@options.OPTIMIZING
def command(model: Path, **flags: Any) -> None:
    """Merge operators into fewer, faster ones. Exact: the outputs stay the same up to rounding.

    BatchNormalization and affine Mul/Add go into the convolution before them, decomposed HardSwish becomes
    HardSigmoid × x, MatMul + Add becomes Gemm, and chains of Transpose, Cast and Reshape become one.
    """
    from modelopt.cli.optimize import execute, recipe_from_flags
    from modelopt.pipelines import FUSE, until_stable

    execute(recipe_from_flags("fuse", [until_stable(FUSE)], flags), model, "fused", flags)
