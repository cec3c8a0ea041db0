"""`modelopt quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options


@click.command(
    "quantize",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt quantize --calib data/ model.onnx                        # writes model.int8.onnx
  modelopt quantize --calib calib.npz --eval labelled.npz --max-drop 1% model.onnx
  modelopt quantize --mode dynamic model.onnx                       # no data needed
  modelopt quantize --calib data/ --target x86-avx2 model.onnx      # for another machine""",
)
@options.MODEL
@options.option(
    "--calib", metavar="DATA", help="Calibration data: npz, npy, .pb test sets, images, file.py:f, or random."
)
@options.option(
    "--calib-limit", type=click.IntRange(1), default=128, show_default=True, help="Samples to calibrate on."
)
@options.option(
    "--mode", type=click.Choice(["static", "dynamic"]), default="static", show_default=True, help="Kind of int8."
)
@options.option(
    "--activation",
    type=click.Choice(["auto", "u8", "s8"]),
    default="auto",
    show_default=True,
    help="The type of activations; auto is what the target runs best.",
)
@options.option("--per-channel/--per-tensor", default=None, help="Scales of weights. [default: per channel]")
@options.option(
    "--method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    help="How ranges follow from what was observed. [default: the pass's]",
)
@options.option(
    "--target",
    type=click.Choice(["auto", "x86-vnni", "x86-avx2", "arm64", "tensorrt", "cuda"]),
    default="auto",
    show_default=True,
    help="The machine that the result is for.",
)
@options.option("--include", multiple=True, help="Only nodes of this name: a glob, re:REGEX, or op:TYPE; repeatable.")
@options.option("--exclude", multiple=True, help="Not nodes of this name; repeatable.")
@options.option("--everywhere", is_flag=True, help="Also where int8 is estimated not to pay: smaller, slower.")
@options.option("--only", is_flag=True, help="Do not fold and fuse first.")
@options.OPTIMIZING
def command(
    model: Path,
    calib: str | None,
    calib_limit: int,
    mode: str,
    activation: str,
    per_channel: bool | None,
    method: str | None,
    target: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    everywhere: bool,
    only: bool,
    **flags: Any,
) -> None:
    """Convert to int8.

    Static quantization measures the ranges of activations on calibration data and stores weights and activations in 8
    bits; dynamic quantization stores weights only and needs no data. The model is folded and fused first, exactly.
    """
    from modelopt.cli.optimize import execute, recipe_from_flags
    from modelopt.errors import InputError
    from modelopt.pipelines import EXACT, until_stable
    from modelopt.recipe import DataSpec, make_pass

    chosen: dict[str, Any] = {}
    chosen |= {"per-channel": per_channel} if per_channel is not None else {}
    chosen |= {"include": list(include)} if include else {}
    chosen |= {"exclude": list(exclude)} if exclude else {}
    calibration = None
    if mode == "static":
        if calib is None:
            raise InputError(
                "static quantization needs calibration data",
                note="ranges of activations come from real inputs",
                hint="--calib data/, or --mode dynamic, or --calib random to try without",
            )
        chosen |= {"activation": activation} if activation != "auto" else {}
        chosen |= {"method": method} if method else {}
        chosen |= {"everywhere": True} if everywhere else {}
        calibration = DataSpec(data=calib, limit=calib_limit, preprocess=flags["preprocess"])
    else:
        given = [
            name
            for name, value in (("--calib", calib), ("--method", method), ("--everywhere", everywhere or None))
            if value is not None
        ]
        if given or activation != "auto":
            raise InputError(
                f"{(given or ['--activation'])[0]} is for static quantization", hint="leave out --mode dynamic"
            )
    steps = [make_pass(f"quantize-{mode}", chosen)]
    recipe = recipe_from_flags(
        "quantize", steps if only else [until_stable(EXACT), *steps], flags, calibration=calibration, target=target
    )
    execute(recipe, model, "int8", flags)
