"""`modelopt run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options
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
@click.argument("recipe", type=options.Names(*shipped_recipes.names(), name="path"), required=False)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True), required=False)
@options.option("--schema", is_flag=True, help="Print the JSON schema of recipes, and stop.")
@options.option("--calib", help="Calibration data, in place of the recipe's.")
@options.OPTIMIZING
def command(recipe: str | None, model: Path | None, schema: bool, calib: str | None, **flags: Any) -> None:
    """Run the RECIPE, a file or the name of one that comes with modelopt, on MODEL.

    Flags given here take the place of what the recipe says.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.cli.overriding import override
    from modelopt.core.errors import InputError
    from modelopt.recipe.json_schema import json_schema
    from modelopt.recipe.parsing import load

    if schema:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2))
        return
    if recipe is None:
        raise InputError("no recipe was given", hint="modelopt run recipe.yaml model.onnx, or modelopt recipes")
    loaded = load(shipped_recipes.path_of(recipe))
    if model is None and not flags["print_recipe"]:
        raise InputError("no model was given", hint=f"modelopt run {recipe} model.onnx")
    context = click.get_current_context()
    given = {name for name in flags if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE}
    recipe_to_run = override(loaded, flags, given, calib)
    execute(recipe_to_run, model or Path("model.onnx"), loaded.suffix(), flags)
