"""`modelopt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


@click.command(
    "bench",
    cls=options.Command,
    epilog="""\b
Examples:
  modelopt bench model.onnx
  modelopt bench --data calib.npz --budget 30 model.onnx model.int8.onnx
  modelopt bench --provider openvino --provider-option device_type=CPU model.onnx""",
)
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@options.option("--data", type=options.DATA_NAME, metavar="DATA", help="Inputs; without them random ones are made.")
@options.option("--preprocess", help="For image folders, e.g. resize=224x224,scale=1/255.")
@options.LAYOUT
@options.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples a run.")
@options.option(
    "--dim", multiple=True, type=options.KeyValue(), help="Size of a free dimension of random inputs: name=8."
)
@options.TIMING
@options.option(
    "--calibrate-noise",
    is_flag=True,
    heading="Latency",
    help="Time the first model against its own copy, and keep what this machine's noise is.",
)
@options.option("--seed", type=click.IntRange(0), default=0, help="For random inputs. [default: 0]")
@options.LIMITS
@options.SAYING
def command(models: tuple[Path, ...], **flags: Any) -> None:
    """Measure the latency of MODELS side by side.

    Each model runs in several fresh processes, in interleaved rounds, one at a time. Ratios are to the first model and
    carry a 95% interval over processes and rounds; a ratio that could be noise is called that.
    """
    from modelopt.cli import console
    from modelopt.cli.optimizing import (
        bench_from_flags,
        free_dims_from_flags,
        layout_from_flags,
        limits_from_flags,
        session_from_flags,
    )
    from modelopt.core.errors import InputError
    from modelopt.engine.compare import bench_sections, measure_models
    from modelopt.recipe.recipe import EvaluateSpec

    screen = console.Screen(quiet=flags["quiet"], verbose=flags["verbose"], as_json=flags["as_json"])
    data = None
    if flags["data"] is not None:
        data = EvaluateSpec(
            data=flags["data"], preprocess=flags["preprocess"], batch=flags["batch"], **layout_from_flags(flags)
        )
    elif flags["batch_axis"] or flags["whole_files"]:
        raise InputError("--batch-axis and --whole-files need data", hint="--data DATA")
    with screen.progress() as progress:
        report = measure_models(
            models,
            data=data,
            bench=bench_from_flags(flags),
            session=session_from_flags(flags),
            baseline=None,
            score=False,
            calibrate_noise=flags["calibrate_noise"],
            free_dims=free_dims_from_flags(flags),
            seed=flags["seed"],
            data_flag="--data",
            limits=limits_from_flags(flags),
            allow_hardlinks=flags["allow_hardlinks"],
            progress=progress,
        )
    if flags["as_json"]:
        screen.json(report)
    screen.sections(bench_sections(report))
