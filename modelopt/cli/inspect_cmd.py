"""`modelopt inspect`."""

from __future__ import annotations

from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option
from modelopt.core.errors import InputError


def _sizes(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    """``NAME=N`` texts as a mapping; a name may hold ``=``."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or not 0 < int(number) < 2**31:
            raise InputError(f"--dim '{text}' is not NAME=N with a whole number N over 0", hint="--dim batch=8")
        sizes[name] = int(number)
    return sizes


@click.command(
    "inspect",
    cls=Command,
    epilog="""\b
Examples:
  modelopt inspect model.onnx
  modelopt inspect --dim batch=8 --dim 'tokens:1=128' model.onnx
  modelopt inspect --json model.onnx | jq .macs.total""",
)
@options.MODEL
@option(
    "--dim",
    "dims",
    metavar="NAME=N",
    multiple=True,
    callback=_sizes,
    help="The size of an open dimension: its name, or INPUT:AXIS where it has none; repeatable.",
)
@option("--layers", type=click.IntRange(0), default=10, show_default=True, help="How many layers to list.")
@option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    heading="Limits",
    help="Seconds for shape inference; without its answer the rest is still shown.",
)
@options.MODEL_LIMITS
@options.SAYING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Show what a model is made of: its interface, weights, work, and what is in the way of making it smaller.

    Nothing is run and at most a sample of large weights is read. MACs are for a batch of 1; set other sizes with --dim.
    """
    from modelopt.cli.reading import read
    from modelopt.commands.inspect_model import InspectOptions, inspect
    from modelopt.inspection.listing import render_inspection

    given, shown = read(InspectOptions, context)
    found = inspect(given)
    if shown.as_json:
        shown.screen().json(found)
        return
    shown.screen().sections(render_inspection(found, verbose=shown.verbose > 0))
