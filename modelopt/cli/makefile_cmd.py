"""`modelopt makefile`."""

from __future__ import annotations

import click

from modelopt.cli.command_help import Command


@click.command(
    "makefile",
    cls=Command,
    epilog="""\b
Example, in a Makefile:
  include modelopt.mk
  MODELOPT_CALIB := data/calib.npz
  all: model.int8.onnx
  modelopt.mk: ; modelopt makefile > $@""",
)
def command() -> None:
    """Print make rules: %.folded.onnx, %.fused.onnx, %.pruned.onnx, %.int8.onnx from %.onnx."""
    from importlib.resources import files

    click.echo(files("modelopt").joinpath("modelopt.mk").read_text(encoding="utf-8"), nl=False)
