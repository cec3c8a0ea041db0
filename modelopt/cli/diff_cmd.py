"""`modelopt diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option
from modelopt.core.errors import ExitCode


@click.command(
    "diff",
    cls=Command,
    epilog="""\b
Examples:
  modelopt diff model.onnx model.fused.onnx
  modelopt diff -v a.onnx b.onnx                    # every node and initializer
  modelopt diff --exit-code a.onnx b.onnx           # 1 where they differ
  modelopt diff --json a.onnx b.onnx | jq '.changes[].name'""",
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@option("--exit-code", is_flag=True, help="End with exit code 1 where the models differ.")
@options.MODEL_LIMITS
@options.SAYING
@click.pass_context
def command(context: click.Context, /, *, exit_code: bool, **_: Any) -> None:
    """Show what models A and B differ in: inputs, outputs, opsets, operators, nodes, weights, metadata.

    Nothing is run. Nodes are aligned by the names of what they make, else by their own names, else by what they are.
    """
    from modelopt.cli.reading import read
    from modelopt.commands.diff_models import DiffOptions, diff
    from modelopt.inspection.diff_tables import diff_sections

    given, shown = read(DiffOptions, context, without=("exit_code",))
    found = diff(given)
    screen = shown.screen()
    if shown.as_json:
        screen.json(found)
    screen.sections(diff_sections(found, verbose=shown.verbose > 0))
    if exit_code and not found.is_equal:
        context.exit(ExitCode.GATE_FAILED)
