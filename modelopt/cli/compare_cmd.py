"""`modelopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import gate_options, options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option
from modelopt.cli.parameter_types import KeyValue, mapping


@click.command(
    "compare",
    cls=Command,
    epilog="""\b
Examples:
  modelopt compare model.onnx model.int8.onnx --eval labelled.npz
  modelopt compare a.onnx b.onnx                  # outputs on random inputs
  modelopt compare model.onnx model.onnx --baseline-provider cpu --provider openvino
  modelopt compare --no-bench --eval photos/ --preprocess resize=224x224 a.onnx b.onnx""",
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@options.DATA
@options.RANDOM_INPUTS
@options.NO_BENCH
@options.TIMING
@option(
    "--by-layer",
    is_flag=True,
    heading="Latency",
    help="Profile both models: how long each node takes, by operator and by node; -v lists all.",
)
@option("--baseline-provider", heading="Latency", help="Run A on this provider instead.")
@option(
    "--baseline-option",
    "baseline_options",
    multiple=True,
    type=KeyValue(),
    callback=mapping,
    heading="Latency",
    help="An option of that provider.",
)
@option("--seed", type=click.IntRange(0), default=0, help="For random inputs. [default: 0]")
@gate_options.COMPARED
@options.LIMITS
@options.SAYING
@options.REPORT
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Compare model B with model A: size, latency, and accuracy or how close the outputs are."""
    from dataclasses import replace

    from modelopt.cli.reading import read
    from modelopt.commands.contract_options import stop_at
    from modelopt.commands.side_by_side import CompareOptions, compare
    from modelopt.report.bench_tables import measured_sections

    given, shown = read(CompareOptions, context)
    screen = shown.screen()
    with screen.progress() as progress:
        report = compare(replace(given, progress=progress), shown.report)
    if shown.as_json:
        screen.json(report)
    screen.sections(measured_sections(report, verbose=shown.verbose > 0))
    stop_at(report.gates, report)
