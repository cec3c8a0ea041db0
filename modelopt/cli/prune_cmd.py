"""`modelopt prune`."""

from __future__ import annotations

from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.parameter_types import Fraction


@click.command(
    "prune",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt prune --sparsity 0.5 model.onnx      # writes model.pruned.onnx
  modelopt prune --sparsity 30% --scope global --eval labelled.npz --max-drop 1% model.onnx
  modelopt prune --pattern 2:4 --exclude '*head*' --exclude op:LSTM model.onnx""",
)
@options.MODEL
@options.option("--sparsity", type=Fraction(), help="The fraction of weights to set to zero. [default: 0.5]")
@options.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Rank weights within each layer, or over all of them.",
)
@options.option(
    "--pattern",
    type=click.Choice(["unstructured", "2:4", "4:8"]),
    default="unstructured",
    show_default=True,
    help="Where zeros may be.",
)
@options.option(
    "--include", multiple=True, help="Only nodes and tensors of this name: a glob, re:REGEX, or op:TYPE; repeatable."
)
@options.option("--exclude", multiple=True, help="Not nodes and tensors of this name; repeatable.")
@options.OPTIMIZING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Set the smallest weights to zero.

    The file then compresses better. onnxruntime does not run faster on unstructured zeros: it stores and computes them
    like any other number.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.prune import PruneOptions

    execute(PruneOptions, context)
