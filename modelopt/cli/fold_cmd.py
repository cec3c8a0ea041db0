"""`modelopt fold`."""

from __future__ import annotations

from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.declaring import option
from modelopt.cli.parameter_types import Fraction


@click.command(
    "fold",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt fold model.onnx                      # writes model.folded.onnx
  modelopt fold model.onnx -o - | modelopt fuse - -o fast.onnx
  modelopt fold --freeze-dim batch=1 model.onnx # also --input-shape x:1,3,224,224
  modelopt fold --engine onnxsim model.onnx""",
)
@options.MODEL
@option(
    "--engine",
    type=click.Choice(["modelopt", "onnxsim"]),
    default="modelopt",
    show_default=True,
    help="What folds: the passes of modelopt, or onnxsim.",
)
@option("--max-growth", type=Fraction(), help="How much all weights may grow. [default: 10%]")
@option("--freeze-dim", multiple=True, metavar="NAME=N", help="Set a symbolic dimension of the inputs; repeatable.")
@option(
    "--input-shape", multiple=True, metavar="INPUT:N,N", help="Set the shape of an input, x:1,3,224,224; repeatable."
)
@options.OPSET
@options.OPTIMIZING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Fold constants and remove what does nothing. Exact: the outputs stay the same.

    Constants are computed ahead of time unless that would make the file grow; identities, dead nodes, what is computed
    twice and duplicate weights go. --freeze-dim and --input-shape change the inputs' shapes: the result takes no other.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.fold import FoldOptions

    execute(FoldOptions, context)
