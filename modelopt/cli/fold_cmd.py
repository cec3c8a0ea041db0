"""`modelopt fold`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


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
@options.option(
    "--engine",
    type=click.Choice(["modelopt", "onnxsim"]),
    default="modelopt",
    show_default=True,
    help="Who folds: our passes, or onnxsim on an in-memory model.",
)
@options.option("--max-growth", type=options.Fraction(), help="How much all weights may grow. [default: 10%]")
@options.option(
    "--freeze-dim", multiple=True, metavar="NAME=N", help="Set a symbolic dimension of the inputs; repeatable."
)
@options.option(
    "--input-shape", multiple=True, metavar="INPUT:N,N", help="Set the shape of an input, x:1,3,224,224; repeatable."
)
@options.OPSET
@options.OPTIMIZING
def command(
    model: Path,
    engine: str,
    max_growth: float | None,
    freeze_dim: tuple[str, ...],
    input_shape: tuple[str, ...],
    opset: int | None,
    **flags: Any,
) -> None:
    """Fold constants and remove what does nothing. Exact: the outputs stay the same.

    Constants are computed ahead of time unless that would make the file grow; identities, dead nodes, what is computed
    twice and duplicate weights go. --freeze-dim and --input-shape change the inputs' shapes: the result takes no other.
    """
    from modelopt.cli.optimizing import execute, recipe_from_flags
    from modelopt.core.errors import InputError
    from modelopt.recipe.pass_options import make_pass
    from modelopt.recipe.pipelines import FOLD
    from modelopt.recipe.recipe import Step, UntilStable

    first: list[Step] = [] if opset is None else [make_pass("upgrade-opset", {"version": opset})]
    if freeze_dim or input_shape:
        first.append(make_pass("freeze-dims", {"dims": freeze_dim, "shapes": input_shape}))
    if engine == "onnxsim":
        if max_growth is not None:
            raise InputError("--max-growth is for our own engine", hint="leave out --engine onnxsim")
        execute(recipe_from_flags("fold", [*first, make_pass("onnxsim", {})], flags), model, "folded", flags)
        return
    growth = {} if max_growth is None else {"max-growth": max_growth}
    group = UntilStable(tuple(make_pass(name, growth if name == "fold-constants" else {}) for name in FOLD))
    execute(recipe_from_flags("fold", [*first, group], flags), model, "folded", flags)
