"""What all optimizing commands do with their flags: run with them, and show what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from modelopt.cli.reading import read
from modelopt.commands import execution
from modelopt.commands.execution import OptimizeOptions
from modelopt.core.errors import InputError
from modelopt.io import STDIO, names_stdout
from modelopt.recipe import trust
from modelopt.recipe.dumping import dump
from modelopt.recipe.recipe import Recipe
from modelopt.runtime.processes import ChildPool


def execute(kind: Callable[..., OptimizeOptions], context: click.Context) -> None:
    """Run an optimizing command, and show what came of it.

    Raises:
        GateFailed: The result breaks the contract.
    """
    options, shown = read(kind, context)
    if shown.print_recipe:
        recipe = options.recipe_to_run()
        click.echo("".join(f"# {line}\n" for line in _remarks(recipe)) + dump(recipe), nl=False)
        return
    if options.output is not None and names_stdout(Path(options.output)):
        options = dataclasses.replace(options, output=STDIO)
    is_piped = STDIO in {options.output, options.model if options.output is None else None}
    if is_piped and shown.as_json:
        raise InputError("--json and a model cannot both go to stdout", hint="give -o a file name")
    screen = shown.screen()
    with screen.progress() as progress:
        asked = dataclasses.replace(options, progress=progress)
        report = execution.run(asked, context.find_object(ChildPool), shown.report)
    screen.report(report, explain=shown.explain)
    execution.require_gates(report)


def _remarks(recipe: Recipe) -> Iterator[str]:
    """What must be known to run a printed recipe."""
    if trust.has_paths(recipe):
        yield "Paths are relative to this file."
    if flags := trust.needed(recipe):
        yield f"It names code or files elsewhere: modelopt run takes it with {' '.join(flags)}."
