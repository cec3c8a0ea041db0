"""From the flags of a command to its options, and to what it prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
from click.core import ParameterSource

from modelopt.cli import console

_Options = TypeVar("_Options")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command prints.

    Attributes:
        as_json: One JSON document on stdout, and nothing else.
        verbose: How much more to say.
        quiet: Say nothing but errors.
        explain: What each pass did not do, and why.
        print_recipe: Print the recipe that the command is, and stop.
        report: A file for the report: .json, .md or .html.
    """

    as_json: bool = False
    verbose: int = 0
    quiet: bool = False
    explain: bool = False
    print_recipe: bool = False
    report: Path | None = None

    def screen(self) -> console.Screen:
        """Where the command's words go."""
        return console.Screen(quiet=self.quiet, verbose=self.verbose, as_json=self.as_json)


def read(
    kind: Callable[..., _Options], context: click.Context, *, without: Collection[str] = ()
) -> tuple[_Options, Shown]:
    """The options of a command, of the flags that were written: those that were not have the defaults of `kind`.

    Args:
        kind: Makes them.
        context: Holds the flags.
        without: Parameters that the command itself takes.
    """
    written = {
        name: value
        for name, value in context.params.items()
        if name not in without and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    shown = {each.name: written.pop(each.name) for each in dataclasses.fields(Shown) if each.name in written}
    return kind(**written), Shown(**shown)
