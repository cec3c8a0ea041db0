"""`modelopt completion`."""

from __future__ import annotations

import click

from modelopt.cli.command_help import Command


@click.command(
    "completion",
    cls=Command,
    epilog="""\b
Examples:
  eval "$(modelopt completion bash)"            # in ~/.bashrc
  modelopt completion fish > ~/.config/fish/completions/modelopt.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import ShellComplete, get_completion_class

    from modelopt.cli import cli

    kind = get_completion_class(shell)
    if kind is not None:
        completion = kind(cli, {}, "modelopt", "_MODELOPT_COMPLETE")
        source = ShellComplete.source(completion)  # click's own for bash runs bash, to ask for its version
        click.echo(source.replace('split ","', 'split --max 1 ","'))  # fish: a description may hold commas
