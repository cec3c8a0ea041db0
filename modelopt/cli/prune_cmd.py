"""`modelopt prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


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
@options.option("--sparsity", type=options.Fraction(), help="The fraction of weights to set to zero. [default: 0.5]")
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
def command(
    model: Path,
    sparsity: float | None,
    scope: str,
    pattern: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    **flags: Any,
) -> None:
    """Set the smallest weights to zero.

    The file then compresses better. onnxruntime does not run faster on unstructured zeros: it stores and computes them
    like any other number.
    """
    from modelopt.cli.optimizing import execute, recipe_from_flags
    from modelopt.recipe.pass_options import make_pass

    chosen: dict[str, Any] = {"scope": scope, "pattern": pattern}
    chosen |= {"sparsity": sparsity} if sparsity is not None else {}
    chosen |= {"include": list(include)} if include else {}
    chosen |= {"exclude": list(exclude)} if exclude else {}
    step = make_pass("prune-magnitude", chosen)
    execute(recipe_from_flags("prune", [step], flags), model, "pruned", flags)
