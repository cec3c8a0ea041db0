"""`modelopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import gate_options, options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option


@click.command(
    "bench",
    cls=Command,
    epilog="""\b
Examples:
  modelopt bench model.onnx
  modelopt bench --data calib.npz --budget 30 model.onnx model.int8.onnx
  modelopt bench --provider openvino --provider-option device_type=CPU model.onnx""",
)
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@option("--data", type=options.DATA_NAME, metavar="DATA", help="Inputs; without them random ones are made.")
@option("--preprocess", help="For images: resize=224x224,scale=1/255, imagenet, clip …; for sound: rate=16000.")
@options.LAYOUT
@options.RANDOM_INPUTS
@options.TIMING
@option(
    "--by-layer",
    is_flag=True,
    heading="Latency",
    help="Profile each model: how long each node takes, by operator and by node; -v lists all.",
)
@option(
    "--calibrate-noise",
    is_flag=True,
    heading="Latency",
    help="Time the first model against its own copy, and keep what this machine's noise is.",
)
@option("--seed", type=click.IntRange(0), default=0, help="For random inputs. [default: 0]")
@gate_options.MEASURED
@options.LIMITS
@options.SAYING
@options.REPORT
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Measure the latency of MODELS side by side.

    Each model runs in several fresh processes, in interleaved rounds, one at a time. Ratios are to the first model and
    carry a 95% interval over processes and rounds; a ratio that could be noise is called that.
    """
    from dataclasses import replace

    from modelopt.cli.reading import read
    from modelopt.commands.contract_options import stop_at
    from modelopt.commands.side_by_side import BenchOptions, bench
    from modelopt.report.bench_tables import measured_sections

    given, shown = read(BenchOptions, context)
    screen = shown.screen()
    with screen.progress() as progress:
        report = bench(replace(given, progress=progress), shown.report)
    if shown.as_json:
        screen.json(report)
    screen.sections(measured_sections(report, verbose=shown.verbose > 0))
    stop_at(report.gates, report)
