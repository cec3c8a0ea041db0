"""`modelopt run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.declaring import option
from modelopt.cli.parameter_types import Names
from modelopt.recipe import shipped_recipes


@click.command(
    "run",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt run cpu-latency model.onnx           # modelopt recipes lists the names
  modelopt fold --print-recipe model.onnx > fold.yaml && modelopt run fold.yaml model.onnx
  modelopt run --schema > recipe.schema.json    # for editors that complete YAML""",
)
@click.argument("recipe", type=Names(*shipped_recipes.names(), name="path"), required=False)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True), required=False)
@option("--schema", is_flag=True, help="Print the JSON schema of recipes, and stop.")
@option("--calib", help="Calibration data, in place of the recipe's.")
@option(
    "--allow-code",
    is_flag=True,
    help="Run the Python (file.py:function) that the recipe itself names: it can do whatever you can. "
    "What this command line names runs without it.",
)
@option(
    "--allow-paths",
    is_flag=True,
    help="Let the recipe name files outside its own folder. It allows no code: that is another flag.",
)
@options.OPTIMIZING
@click.pass_context
def command(
    context: click.Context, /, recipe: str | None, model: Path | None, schema: bool, print_recipe: bool, **_: Any
) -> None:
    """Run the RECIPE, a file or the name of one that comes with modelopt, on MODEL.

    Flags given here take the place of what the recipe says. Paths in a recipe are relative to its file.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.run_recipe import RunOptions
    from modelopt.core.errors import InputError
    from modelopt.recipe.json_schema import json_schema

    if schema:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2))
        return
    if recipe is None:
        raise InputError("no recipe was given", hint="modelopt run recipe.yaml model.onnx, or modelopt recipes")
    if model is None and not print_recipe:
        raise InputError("no model was given", hint=f"modelopt run {recipe} model.onnx")
    execute(partial(RunOptions, model=model or Path("model.onnx")), context)
