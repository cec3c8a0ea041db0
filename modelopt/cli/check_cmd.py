"""`modelopt check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from modelopt.cli import gate_options, options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option
from modelopt.core import quantities


@click.command(
    "check",
    cls=Command,
    epilog="""\b
Examples:
  modelopt bench --report base.json model.onnx          # once, kept beside the model
  modelopt bench --report new.json model.onnx
  modelopt check new.json --baseline base.json
  modelopt check new.json --baseline base.json --max-latency +3% --max-drop 0.5% --report check.xml
  modelopt check new.json --baseline base.json --across-machines --github
  modelopt check --schema > report.schema.json          # of all reports, for programs that read them""",
)
@click.argument("new", metavar="REPORT", type=click.Path(path_type=Path), required=False)
@option("--baseline", type=click.Path(path_type=Path), help="The earlier report.  [required]")
@option("--schema", is_flag=True, help="Print the JSON schema of reports, and stop.")
@option("--max-latency", heading="Gates", metavar="LIMIT", help="Of a run: +3% of the baseline's, or 2ms.")
@option("--max-memory", heading="Gates", metavar="LIMIT", help="Peak memory of a process: +10%, or 200MB.")
@option("--max-load", heading="Gates", metavar="LIMIT", help="Creating a session: +20%, or 100ms.")
@option("--max-size", heading="Gates", metavar="LIMIT", help="Of the file: +1%, or 5MB.")
@gate_options.limit(
    "--max-drop",
    read=quantities.share,
    kind="fraction",
    help="How much accuracy may fall below the baseline's, e.g. 0.5%.",
)
@gate_options.ON_INCONCLUSIVE
@option(
    "--across-machines",
    is_flag=True,
    heading="Gates",
    help="The reports may be of other machines, threads and versions: compare how each model does beside the first one "
    "of its report.",
)
@option(
    "--report",
    "written",
    type=click.Path(path_type=Path),
    multiple=True,
    heading="Output",
    help="Also write what was found: .json, .md, .html, or .xml for JUnit; repeatable.",
)
@option(
    "--github/--no-github",
    default=None,
    heading="Output",
    help="Print annotations for GitHub on stdout. [default: where GITHUB_ACTIONS is true]",
)
@options.SAYING
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    new: Path | None,
    baseline: Path | None,
    schema: bool,
    written: tuple[Path, ...],
    github: bool | None,
    **_: Any,
) -> None:
    """Compare REPORT with an earlier report of the same models, and fail where one became worse.

    Both are what --report or --json of bench, compare or an optimizing command wrote. Without a limit these hold:
    --max-latency +5% --max-memory +10% --max-size +1% --max-drop 1%. Times are compared only where machine, threads and
    versions are the same, and accuracy only where the data are.
    """
    from modelopt.cli.reading import read
    from modelopt.commands.check_reports import CheckOptions, check
    from modelopt.commands.contract_options import stop_at
    from modelopt.core.errors import InputError
    from modelopt.report.check_report import check_sections, github_annotations

    if schema:
        import msgspec

        from modelopt.report.report_schema import report_schema

        click.echo(msgspec.json.format(msgspec.json.encode(report_schema()), indent=2))
        return
    if new is None or baseline is None:
        lacking = "a report" if new is None else "--baseline"
        raise InputError(f"check needs {lacking}", hint="modelopt check new.json --baseline base.json")
    given, shown = read(CheckOptions, context, without=("written", "github", "schema"))
    found = check(given, written)
    screen = shown.screen()
    if shown.as_json:
        screen.json(found)
    screen.sections(check_sections(found))
    if github if github is not None else os.environ.get("GITHUB_ACTIONS") == "true" and not shown.as_json:
        for line in github_annotations(found):
            click.echo(line)
    stop_at(found.gates, found)
