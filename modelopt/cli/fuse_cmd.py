"""`modelopt fuse`."""

from __future__ import annotations

from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.declaring import option


@click.command(
    "fuse",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt fuse model.onnx                      # writes model.fused.onnx
  modelopt fuse --keep-if-faster model.onnx     # attention and more, where it pays here
  modelopt fuse --explain model.onnx            # what was not fused, and why
  modelopt fuse --opset 17 model.onnx           # for operators that an old file lacks
  modelopt fuse --eval labelled.npz --min-speedup 1.1 model.onnx""",
)
@options.MODEL
@option("--portable", is_flag=True, help="Only operators of the ONNX standard. [default]")
@option("--contrib", is_flag=True, help="Use operators that only onnxruntime has, too.")
@option(
    "--keep-if-faster",
    is_flag=True,
    help="As --contrib, each kind of operator only where it is measured to be faster on this machine.",
)
@options.OPSET
@options.KEEP_OPSET
@options.OPTIMIZING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Fold constants, and merge operators into fewer, faster ones. Exact: outputs stay the same up to rounding.

    BatchNormalization and affine Mul/Add go into the convolution before them, decomposed HardSwish becomes
    HardSigmoid × x, MatMul + Add becomes Gemm, and chains of Transpose, Cast and Reshape become one. An old model is
    converted to the opset that a fusion needs. Where speed is measured, a slower result gives way to a copy of the
    input.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.fuse import FuseOptions

    execute(FuseOptions, context)
