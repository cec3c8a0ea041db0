"""`modelopt quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from modelopt.cli import options

_INT8 = "int8"
_WEIGHTS = "Weights only"
_HALF = "Half precision"


@click.command(
    "quantize",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt quantize --calib data/ model.onnx                        # model.int8.onnx, if int8 pays
  modelopt quantize --calib calib.npz --eval labelled.npz --max-drop 1% model.onnx
  modelopt quantize --mode dynamic model.onnx                       # no data needed
  modelopt quantize --mode fp16 model.onnx                          # half precision: writes model.fp16.onnx
  modelopt quantize --mode weights --bits 4 model.onnx              # 4-bit weights, float activations: model.int4.onnx
  modelopt quantize --calib data/ --override 'logits: {type: u16}' --override 'op:Softmax: {type: f32}' model.onnx
  modelopt quantize --calib data/ --target x86-avx2 model.onnx      # for another machine""",
)
@options.MODEL
@options.option(
    "--calib",
    type=options.DATA_NAME,
    metavar="DATA",
    help="Calibration data: npz, npy, .pb test sets, images, file.py:f, or random.",
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
    type=click.Choice(["static", "dynamic", "fp16", "bf16", "fp32", "weights", "storage", "int8", "int4"]),
    default="static",
    show_default=True,
    help="Kind of int8; half precision, or float32 of it; few bits for weights only; int8 for the file's size only. "
    "int8 is static with --calib, else dynamic; int4 is weights with 4 bits.",
)
@options.option(
    "--activation",
    heading=_INT8,
    type=click.Choice(["auto", "u8", "s8", "u16", "s16"]),
    default="auto",
    show_default=True,
    help="The type of activations; auto is what the target runs best.",
)
@options.option(
    "--per-channel/--per-tensor", heading=_INT8, default=None, help="Scales of weights. [default: per channel]"
)
@options.option(
    "--method",
    heading=_INT8,
    type=click.Choice(["minmax", "moving-average", "percentile", "entropy", "mse"]),
    help="How ranges follow from what was observed. [default: the pass's]",
)
@options.option(
    "--weight-range",
    heading=_INT8,
    type=click.Choice(["max", "mse"]),
    help="How far the integers of int8 weights reach: the extremes, or a search. [default: max]",
)
@options.option(
    "--format",
    heading=_INT8,
    type=click.Choice(["qdq", "qoperator"]),
    help="Float operators between Q/DQ, or QLinearConv and QLinearMatMul where they exist. [default: qdq]",
)
@options.option(
    "--integer-io",
    heading=_INT8,
    is_flag=True,
    help="Inputs and outputs become integers where they are quantized; the report and the metadata say how.",
)
@options.option(
    "--target",
    type=click.Choice(["auto", "x86-vnni", "x86-avx2", "arm64", "tensorrt", "cuda"]),
    default="auto",
    show_default=True,
    help="The machine that the result is for; auto is this one, or the accelerator that --provider names.",
)
@options.option("--include", multiple=True, help="Only nodes of this name: a glob, re:REGEX, or op:TYPE; repeatable.")
@options.option("--exclude", multiple=True, help="Not nodes of this name; repeatable.")
@options.option(
    "--override",
    multiple=True,
    metavar="'NAME: {K: V}'",
    help="For one tensor or node: {type: u8|s8|u16|s16|f32|f16}, {range: [0, 6]}, {min: 0}, {max: 6}, {scale: 0.1} or "
    "{zero-point: 128}, or several of these; repeatable.",
)
@options.option(
    "--everywhere", heading=_INT8, is_flag=True, help="Also where int8 is estimated not to pay: smaller, slower."
)
@options.option("--bits", heading=_WEIGHTS, type=int, help="2, 4 or 8. [default: 4]")
@options.option(
    "--table-bits", heading=_WEIGHTS, type=int, help="The same for tables that are looked up. [default: as --bits]"
)
@options.option(
    "--block-size",
    heading=_WEIGHTS,
    type=int,
    help="So many weights share a scale, 16 to 256. [default: 32; 8 bits: 128]",
)
@options.option(
    "--weight-method",
    heading=_WEIGHTS,
    type=click.Choice(["rtn", "hqq", "gptq"]),
    help="How to round; gptq needs --calib. [default: rtn]",
)
@options.option(
    "--weight-form",
    heading=_WEIGHTS,
    type=click.Choice(["auto", "matmulnbits", "blocked"]),
    help="onnxruntime's operator, or the standard's. [default: auto]",
)
@options.option(
    "--weight-compute",
    heading=_WEIGHTS,
    type=click.Choice(["float32", "int8"]),
    help="What products compute in; int8 is much faster on CPUs and rounds activations. [default: int8]",
)
@options.option(
    "--keep-io-types/--half-io",
    heading=_HALF,
    default=None,
    help="Whether the model's inputs and outputs stay float32; half is for fp16. [default: they stay]",
)
@options.option("--only", is_flag=True, help="Do not fold and fuse first.")
@options.KEEP_OPSET
@options.option(
    "--no-search",
    is_flag=True,
    help="Quantize as told: try nothing else, and write it even if it is slower.",
)
@options.OPTIMIZING
def command(model: Path, mode: str, **flags: Any) -> None:
    """Convert to int8, half precision, or weights of few bits, after exact folding and fusing.

    Static int8 measures the ranges of activations on calibration data; dynamic int8 measures them at run time and needs
    no data. Half precision keeps nodes in float32 where numbers would leave its range. Weights alone can be in 2, 4 or
    8 bits. Where there are data, other ranges and roundings, repairs, and nodes in float are tried until accuracy falls
    by no more than --max-drop, 1% by default. Where speed is measured an int8 result is not slower than the input: the
    result may be the float model (model.optimized.onnx) or a copy (model.copy.onnx). Speed is measured for this machine
    and its providers only, not for another --target.
    """
    from modelopt.cli import quantizing
    from modelopt.cli.optimizing import execute

    context = click.get_current_context()
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }
    written, mode = mode, quantizing.named(mode, flags)
    if flags["max_drop"] is None and quantizing.searches(mode, flags):
        flags["max_drop"] = quantizing.default_contract(flags)
    recipe = quantizing.recipe_of(mode, flags, given, written=written)
    execute(recipe, model, quantizing.suffix_of(mode, flags), flags)
