"""`modelopt passes`."""

from __future__ import annotations

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command


@click.command(
    "passes",
    cls=Command,
    epilog="""\b
Examples:
  modelopt passes
  modelopt passes fuse-conv-bn""",
)
@click.argument("name", required=False)
@options.SAYING
def command(name: str | None, as_json: bool, verbose: int, quiet: bool) -> None:
    """List the passes, or explain the pass NAME: its options, its effect, what it skips."""
    from modelopt.cli import console
    from modelopt.cli.describe_pass import describe, overview
    from modelopt.passes import NAMES, find

    screen = console.Screen(quiet=quiet, verbose=verbose, as_json=as_json)
    if name is None:
        screen.sections([overview()])
    else:
        screen.sections(describe(find(name)))
    if as_json:
        from modelopt.cli.describe_pass import as_data

        screen.json({"passes": [as_data(find(each)) for each in ([name] if name else NAMES)]})
