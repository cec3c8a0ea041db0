"""`modelopt log`."""

from __future__ import annotations

from pathlib import Path

import click

from modelopt.cli import options
from modelopt.cli.command_help import Command


@click.command(
    "log",
    cls=Command,
    epilog="""\b
Example:
  modelopt log model.int8.onnx""",
)
@options.MODEL
@options.SAYING
def command(model: Path, as_json: bool, verbose: int, quiet: bool) -> None:
    """Show how MODEL was made: recipes, versions and input hashes, as stored in the model itself."""
    import msgspec

    from modelopt import io
    from modelopt.cli import console
    from modelopt.core import temporary
    from modelopt.core.tables import Section
    from modelopt.io import provenance

    screen = console.Screen(quiet=quiet, verbose=verbose, as_json=as_json)
    with temporary.folder() as scratch:
        entries = provenance.read(io.load(model, scratch=scratch).model)
    if as_json:
        screen.json({"schema": "modelopt-log/1", "runs": [msgspec.to_builtins(entry) for entry in entries]})
        return
    if not entries:
        screen.sections([Section("", None, (), (f"{model} does not say that modelopt made it.",))])
        return
    for number, entry in enumerate(entries, 1):
        facts = (
            ("modelopt", entry.modelopt),
            ("onnxruntime", entry.onnxruntime or "not used"),
            ("target", entry.target),
            ("input, sha256", entry.input_sha256),
            ("calibration data, sha256", entry.data_sha256 or "none"),
        )
        screen.sections([Section(f"run {number} of {len(entries)}", None, facts, tuple(entry.recipe.splitlines()))])
