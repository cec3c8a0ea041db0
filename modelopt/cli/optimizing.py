"""What all optimizing commands do with their flags: run with them, and show what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import click

from modelopt.cli.reading import read
from modelopt.commands import execution
from modelopt.commands.execution import OptimizeOptions
from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.core.json_text import json_text
from modelopt.io import STDIO
from modelopt.recipe.dumping import dump
from modelopt.report import Report
from modelopt.report.markdown import to_markdown
from modelopt.runtime.processes import ChildPool


def execute(kind: Callable[..., OptimizeOptions], context: click.Context) -> None:
    """Run an optimizing command, and show what came of it.

    Raises:
        GateFailed: The result breaks the contract.
    """
    options, shown = read(kind, context)
    if shown.print_recipe:
        click.echo(dump(options.recipe_to_run()), nl=False)
        return
    is_piped = STDIO in {options.output, options.model if options.output is None else None}
    if is_piped and shown.as_json:
        raise InputError("--json and a model cannot both go to stdout", hint="give -o a file name")
    if shown.report is not None:
        _check_report(shown.report)
    screen = shown.screen()
    with screen.progress() as progress:
        report = execution.run(dataclasses.replace(options, progress=progress), context.find_object(ChildPool))
    screen.report(report, explain=shown.explain)
    if shown.report is not None:
        _write_report(report, shown.report)
    execution.require_gates(report)


def _check_report(path: Path) -> None:
    """Whether a report can be written there, asked before the work and not after it."""
    if path.suffix not in {".json", ".md"}:
        raise InputError(f"a report cannot be written to {path}", hint="name it .json or .md")
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a directory" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"a report cannot be written to {path}", note=reason)


def _write_report(report: Report, path: Path) -> None:
    text = json_text(report) + "\n" if path.suffix == ".json" else to_markdown(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentLacks(f"the report {path} cannot be written", note=error.strerror) from None
