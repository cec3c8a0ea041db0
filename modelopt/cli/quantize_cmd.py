"""`modelopt quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options

DEFAULT_MAX_DROP = 0.01
"""What accuracy may fall by where there are data to measure it on; more is never a default."""


@click.command(
    "quantize",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt quantize --calib data/ model.onnx                        # writes model.int8.onnx
  modelopt quantize --calib calib.npz --eval labelled.npz --max-drop 1% model.onnx
  modelopt quantize --mode dynamic model.onnx                       # no data needed
  modelopt quantize --mode fp16 model.onnx                          # half precision: writes model.fp16.onnx
  modelopt quantize --mode weights --bits 4 model.onnx              # 4-bit weights, float activations: model.int4.onnx
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
    "--calib-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what calibration observed in this JSON file, and use what it knows of the same model and data.",
)
@options.option(
    "--mode",
    type=click.Choice(["static", "dynamic", "fp16", "bf16", "weights", "storage"]),
    default="static",
    show_default=True,
    help="Kind of int8; half precision; few bits for weights only; int8 for the file's size only.",
)
@options.option(
    "--activation",
    type=click.Choice(["auto", "u8", "s8", "u16", "s16"]),
    default="auto",
    show_default=True,
    help="The type of activations; auto is what the target runs best.",
)
@options.option("--per-channel/--per-tensor", default=None, help="Scales of weights. [default: per channel]")
@options.option(
    "--method",
    type=click.Choice(["minmax", "moving-average", "percentile", "entropy", "mse"]),
    help="How ranges follow from what was observed. [default: the pass's]",
)
@options.option(
    "--weight-range",
    type=click.Choice(["max", "mse"]),
    help="How far the integers of int8 weights reach: the extremes, or a search. [default: max]",
)
@options.option(
    "--format",
    "form",
    type=click.Choice(["qdq", "qoperator"]),
    help="Float operators between Q/DQ, or QLinearConv and QLinearMatMul where they exist. [default: qdq]",
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
@options.option("--bits", type=int, help="With --mode weights: 2, 4 or 8. [default: 4]")
@options.option(
    "--block-size", type=int, help="With --mode weights: so many share a scale, 16 to 256. [default: 32; 8 bits: 128]"
)
@options.option(
    "--weight-method",
    type=click.Choice(["rtn", "hqq", "gptq"]),
    help="With --mode weights: how to round; gptq needs --calib. [default: rtn]",
)
@options.option(
    "--weight-form",
    type=click.Choice(["auto", "matmulnbits", "blocked"]),
    help="With --mode weights: onnxruntime's operator, or the standard's. [default: auto]",
)
@options.option(
    "--keep-io-types/--half-io",
    default=None,
    help="For fp16: whether the model's inputs and outputs stay float32. [default: they stay]",
)
@options.option("--only", is_flag=True, help="Do not fold and fuse first.")
@options.option(
    "--no-search", is_flag=True, help="Quantize as told: try nothing else, and write it even if it is slower."
)
@options.OPTIMIZING
def command(
    model: Path,
    calib: str | None,
    calib_limit: int,
    mode: str,
    activation: str,
    per_channel: bool | None,
    method: str | None,
    weight_range: str | None,
    form: str | None,
    target: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    everywhere: bool,
    bits: int | None,
    block_size: int | None,
    weight_method: str | None,
    weight_form: str | None,
    keep_io_types: bool | None,
    only: bool,
    no_search: bool,
    **flags: Any,
) -> None:
    """Convert to int8.

    Static quantization measures the ranges of activations on calibration data and stores weights and activations in 8
    bits; dynamic quantization stores weights only and needs no data. The model is folded and fused first, exactly.
    Half precision keeps the model's inputs and outputs; where activations leave its range, nodes stay in float32, and
    calibration data show where. Weights alone can be in 2, 4 or 8 bits for products of few rows and small files.
    """
    from modelopt.cli import half, weights
    from modelopt.cli.optimize import execute, recipe_from_flags
    from modelopt.errors import InputError
    from modelopt.pipelines import EXACT, until_stable
    from modelopt.recipe import DataSpec, make_pass
    from modelopt.tuning.contract import keep_contract

    chosen: dict[str, Any] = {}
    chosen |= {"per-channel": per_channel} if per_channel is not None else {}
    chosen |= {"include": list(include)} if include else {}
    chosen |= {"exclude": list(exclude)} if exclude else {}
    chosen |= {"everywhere": True} if everywhere else {}
    few_bits = {"bits": bits, "block-size": block_size, "method": weight_method, "form": weight_form}
    calibration = None
    if flags["calib_cache"] and (calib is None or mode in ("dynamic", *weights.MODES)):
        raise InputError("--calib-cache keeps what calibration observes", hint="--calib DATA, --mode static or fp16")
    if keep_io_types is not None and mode not in half.MODES:
        raise InputError("--keep-io-types and --half-io are for half precision", hint="--mode fp16")
    if mode in half.MODES + weights.MODES:
        rest: dict[str, Any] = {
            "calibration": DataSpec(data=calib, limit=calib_limit, preprocess=flags["preprocess"]) if calib else None,
            "target": target,
            "patterns": {key: chosen[key] for key in ("include", "exclude") if key in chosen},
            "only": only,
        }
        half.refuse_integer(
            mode,
            {
                "--activation": activation != "auto",
                "--per-channel": per_channel is not None,
                "--method": method is not None,
                "--weight-range": weight_range is not None,
                "--format": form is not None,
                "--everywhere": everywhere,
            },
        )
        if mode in weights.MODES:
            suffix = f"int{bits or 4}" if mode == "weights" else "int8"
            execute(weights.weights_recipe(mode, flags, few_bits, **rest), model, suffix, flags)
            return
        weights.refuse_given(few_bits, mode)
        execute(half.half_recipe(mode, flags, keep_io_types=keep_io_types, **rest), model, mode, flags)
        return
    weights.refuse_given(few_bits, mode)
    if mode == "static":
        if calib is None:
            raise InputError(
                "static quantization needs calibration data",
                note="ranges of activations come from real inputs",
                hint="--calib data/, or --mode dynamic, or --calib random to try without",
            )
        chosen |= {"activation": activation} if activation != "auto" else {}
        given_static = {"method": method, "weight-range": weight_range, "format": form}
        chosen |= {name: value for name, value in given_static.items() if value}
        calibration = DataSpec(data=calib, limit=calib_limit, preprocess=flags["preprocess"])
    else:
        static = {"--calib": calib, "--method": method, "--weight-range": weight_range, "--format": form}
        given = [name for name, value in static.items() if value is not None]
        if given or activation != "auto":
            raise InputError(
                f"{(given or ['--activation'])[0]} is for static quantization", hint="leave out --mode dynamic"
            )
    searches = not (no_search or everywhere or flags["print_recipe"] or _measures_nothing(flags))
    if searches and flags["max_drop"] is None and (calib not in {None, "random"} or flags["evaluation"]):
        flags["max_drop"] = DEFAULT_MAX_DROP
    steps = [make_pass(f"quantize-{mode}", chosen)]
    recipe = recipe_from_flags(
        "quantize", steps if only else [until_stable(EXACT), *steps], flags, calibration=calibration, target=target
    )
    if not searches:
        execute(recipe, model, "int8", flags)
        return
    also = [make_pass("quantize-dynamic", {})] if mode == "static" and not (include or exclude) else []
    execute(recipe, model, "int8", flags, choose=lambda request: keep_contract(request, also))


def _measures_nothing(flags: dict[str, Any]) -> bool:
    return flags["evaluation"] is None and flags["no_verify"] and flags["no_bench"]
