"""`modelopt evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import gate_options, options
from modelopt.cli.command_help import Command
from modelopt.cli.declaring import option
from modelopt.core import quantities


@click.command(
    "evaluate",
    cls=Command,
    epilog="""\b
Examples:
  modelopt evaluate model.onnx --eval labelled.npz
  modelopt evaluate model.onnx --eval photos/ --preprocess resize=224x224 --min-score 95%
  modelopt evaluate model.onnx --eval labelled.npz --metric top5 --report scores.json""",
)
@click.argument("model", type=click.Path(path_type=Path))
@options.DATA
@option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples per run.")
@option("--provider", help="The execution provider. [default: cpu]")
@option("--threads", type=click.IntRange(0), help="Threads of one operator; 0: all usable cores. [default: 0]")
@gate_options.limit(
    "--min-score",
    read=quantities.share,
    kind="fraction",
    help="Fail if the first metric is lower than this, e.g. 95%.",
)
@gate_options.ON_INCONCLUSIVE
@options.LIMITS
@options.SAYING
@options.REPORT
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Score MODEL on labelled data: each metric with its 95% interval, and the recall of each class."""
    from dataclasses import replace

    from modelopt.cli.reading import read
    from modelopt.commands.contract_options import stop_at
    from modelopt.commands.evaluate_model import EvaluateOptions, evaluate
    from modelopt.report.evaluation_report import evaluation_sections

    given, shown = read(EvaluateOptions, context)
    screen = shown.screen()
    with screen.progress() as progress:
        report = evaluate(replace(given, progress=progress), shown.report)
    if shown.as_json:
        screen.json(report)
    screen.sections(evaluation_sections(report))
    stop_at(report.gates, report)
