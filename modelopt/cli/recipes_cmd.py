"""`modelopt recipes`."""

from __future__ import annotations

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command
from modelopt.cli.parameter_types import Names
from modelopt.recipe import shipped_recipes


@click.command(
    "recipes",
    cls=Command,
    epilog="""\b
Examples:
  modelopt recipes
  modelopt recipes int8-static > mine.yaml      # to change it
  modelopt run mine.yaml model.onnx --calib data/""",
)
@click.argument("name", type=Names(*shipped_recipes.names(), files=False, name="name"), required=False)
@options.SAYING
def command(name: str | None, as_json: bool, verbose: int, quiet: bool) -> None:
    """List the recipes that come with modelopt, or print the recipe NAME. `modelopt run` takes these names."""
    if name is not None and not as_json:
        click.echo(shipped_recipes.text_of(name), nl=False)
        return
    from modelopt.cli import console
    from modelopt.core.tables import Section

    listed = [(each, shipped_recipes.summary(each)) for each in ([name] if name else shipped_recipes.names())]
    screen = console.Screen(quiet=quiet, verbose=verbose, as_json=as_json)
    screen.sections([Section("", ("recipe", "what it does"), tuple(listed))])
    if as_json:
        texts = {each: shipped_recipes.text_of(each) for each, _ in listed}
        screen.json({"recipes": [{"name": each, "summary": says, "text": texts[each]} for each, says in listed]})
