"""`modelopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


@click.command(
    "compare",
    cls=options.Command,
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
@options.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples a run.")
@options.option(
    "--dim", multiple=True, type=options.KeyValue(), help="Size of a free dimension of random inputs: name=8."
)
@options.option("--no-bench", is_flag=True, help="Do not measure latency.")
@options.TIMING
@options.option("--baseline-provider", heading="Latency", help="Run A on this provider instead.")
@options.option(
    "--baseline-option", multiple=True, type=options.KeyValue(), heading="Latency", help="An option of that provider."
)
@options.option("--seed", type=click.IntRange(0), default=0, help="For random inputs. [default: 0]")
@options.LIMITS
@options.SAYING
def command(a: Path, b: Path, **flags: Any) -> None:
    """Compare model B with model A: size, latency, and accuracy or how close the outputs are."""
    from modelopt.cli import console
    from modelopt.cli.optimizing import (
        baseline_from_flags,
        bench_from_flags,
        evaluation_from_flags,
        free_dims_from_flags,
        limits_from_flags,
        session_from_flags,
    )
    from modelopt.engine.compare import compare_sections, measure_models

    screen = console.Screen(quiet=flags["quiet"], verbose=flags["verbose"], as_json=flags["as_json"])
    with screen.progress() as progress:
        report = measure_models(
            (a, b),
            data=evaluation_from_flags(flags),
            bench=bench_from_flags(flags),
            session=session_from_flags(flags),
            baseline=baseline_from_flags(flags),
            score=True,
            free_dims=free_dims_from_flags(flags),
            seed=flags["seed"],
            data_flag="--eval",
            limits=limits_from_flags(flags),
            allow_hardlinks=flags["allow_hardlinks"],
            progress=progress,
        )
    if flags["as_json"]:
        screen.json(report)
    screen.sections(compare_sections(report))
