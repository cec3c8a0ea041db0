"""`modelopt inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from modelopt.cli import options


@click.command(
    "inspect",
    cls=options.Command,
    epilog="""\b
Examples:
  modelopt inspect model.onnx
  modelopt inspect --dim batch=8 --dim 'tokens:1=128' model.onnx
  modelopt inspect --json model.onnx | jq .macs.total""",
)
@options.MODEL
@options.option(
    "--dim",
    "dims",
    metavar="NAME=N",
    multiple=True,
    help="The size of an open dimension: its name, or INPUT:AXIS where it has none; repeatable.",
)
@options.option("--layers", type=click.IntRange(0), default=10, show_default=True, help="How many layers to list.")
@options.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    heading="Limits",
    help="Seconds for shape inference; without its answer the rest is still shown.",
)
@options.option(
    "--allow-hardlinks", is_flag=True, heading="Limits", help="Accept external data files that are hardlinks."
)
@options.SAYING
def command(
    model: Path,
    dims: tuple[str, ...],
    layers: int,
    timeout: float,
    allow_hardlinks: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Show what a model is made of: its interface, weights, work, and what is in the way of making it smaller.

    Nothing is run and at most a sample of large weights is read. MACs are for a batch of 1; set other sizes with --dim.
    """
    import dataclasses
    import tempfile
    from contextlib import closing

    from modelopt.cli import console
    from modelopt.inspection import inspect
    from modelopt.inspection.listing import render_inspection
    from modelopt.io import load
    from modelopt.runtime.limits import Limits
    from modelopt.runtime.worker_runner import WorkerRunner

    limits = dataclasses.replace(Limits.default(), seconds=timeout)
    sizes = _sizes(dims)
    screen = console.Screen(quiet=quiet, verbose=verbose, as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="modelopt-in-") as scratch, closing(WorkerRunner(limits=limits)) as runner:
        loaded = load(model, scratch=Path(scratch), allow_hardlinks=allow_hardlinks)
        inspection = inspect(loaded, runner, sizes=sizes, layer_limit=layers)
    if as_json:
        screen.json(inspection)
        return
    screen.sections(render_inspection(inspection, verbose=verbose > 0))


def _sizes(dims: tuple[str, ...]) -> dict[str, int]:
    """``NAME=N`` texts as a mapping; a name may hold ``=``."""
    from modelopt.core.errors import InputError

    sizes: dict[str, int] = {}
    for text in dims:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or not 0 < int(number) < 2**31:
            raise InputError(f"--dim '{text}' is not NAME=N with a whole number N over 0", hint="--dim batch=8")
        sizes[name] = int(number)
    return sizes
