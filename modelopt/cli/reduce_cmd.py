"""`modelopt reduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option


@click.command(
    "reduce",
    cls=Command,
    epilog="""\b
Examples:
  modelopt reduce model.onnx --check 'python check.py {model} {inputs}'
  modelopt reduce model.onnx --data inputs.npz --check './compare.sh {model} {inputs}' -o small.onnx
  modelopt reduce model.onnx --check 'trtexec --onnx={model}'""",
)
@click.argument("model", type=click.Path(path_type=Path))
@option(
    "--check",
    required=True,
    metavar="COMMAND",
    help="A command that fails on MODEL; {model} and {inputs} stand for the files. It runs without a shell.",
)
@option("--data", type=options.DATA_NAME, metavar="DATA", help="Inputs: its first sample. Without it random ones.")
@option("-o", "--output", type=click.Path(path_type=Path), help="Where the part goes. [default: MODEL.reduced.onnx]")
@option(
    "--check-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For a run of the command; one that takes longer fails.",
)
@options.LAYOUT
@options.LIMITS
@options.SAYING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Find the smallest part of MODEL on which a command still fails, and write it with its inputs.

    The nodes are bisected in their order: first the shortest beginning that fails, then the latest start. What the part
    reads of nodes before it becomes an input, and holds what the model computes there.
    """
    from dataclasses import asdict, replace

    from modelopt.cli.reading import read
    from modelopt.commands.reduce_model import ReduceOptions, reduce
    from modelopt.core.tables import Section

    given, shown = read(ReduceOptions, context)
    screen = shown.screen()
    with screen.progress() as progress:
        found = reduce(replace(given, progress=progress))
    if shown.as_json:
        screen.json({"schema": "modelopt-reduction/1", **asdict(found)})
    rows = (
        ("nodes", f"{found.nodes[1]:,} of {found.nodes[0]:,}"),
        ("operators", ", ".join(found.operators)),
        ("runs of the check", str(found.runs)),
        ("model", found.model),
        ("inputs", found.inputs),
    )
    screen.sections([Section("", None, rows, (f"repeat: {found.repeat}",))])
