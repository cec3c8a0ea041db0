"""`modelopt quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.declaring import option, switch_off

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
@option(
    "--calib",
    type=options.DATA_NAME,
    metavar="DATA",
    help="Calibration data: npz, npy, .pb test sets, images, csv, file.py:f, or random.",
)
@option("--calib-limit", type=click.IntRange(1), default=128, show_default=True, help="Samples to calibrate on.")
@option(
    "--calib-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what calibration observed in this JSON file, and use what it knows of the same model and data.",
)
@option(
    "--mode",
    type=click.Choice(["static", "dynamic", "fp16", "bf16", "fp32", "weights", "storage", "int8", "int4"]),
    default="static",
    show_default=True,
    help="static, dynamic: int8 with ranges of activations from calibration, or from each run; fp16, bf16: half "
    "precision; fp32: float32; weights: few bits for weights only; storage: int8 weights in the file, float32 in "
    "memory. int8 is static with --calib, else dynamic; int4 is weights with 4 bits.",
)
@option(
    "--activation",
    heading=_INT8,
    type=click.Choice(["auto", "u8", "s8", "u16", "s16"]),
    default="auto",
    show_default=True,
    help="The type of activations; auto is what the target runs best.",
)
@option("--per-channel/--per-tensor", heading=_INT8, default=None, help="Scales of weights. [default: per channel]")
@option(
    "--method",
    heading=_INT8,
    type=click.Choice(["minmax", "moving-average", "percentile", "entropy", "mse"]),
    help="How ranges follow from what was observed. [default: the pass's]",
)
@option(
    "--weight-range",
    heading=_INT8,
    type=click.Choice(["max", "mse"]),
    help="Range of int8 weights: up to the largest one, or the range of least squared error. [default: max]",
)
@option(
    "--format",
    heading=_INT8,
    type=click.Choice(["qdq", "qoperator"]),
    help="Float operators between QuantizeLinear and DequantizeLinear, or QLinearConv and QLinearMatMul where they "
    "exist. [default: qdq]",
)
@option(
    "--integer-io",
    heading=_INT8,
    is_flag=True,
    help="Inputs and outputs become integers where they are quantized; the report and the metadata say how.",
)
@option(
    "--target",
    type=click.Choice(["auto", "x86-vnni", "x86-avx2", "arm64", "tensorrt", "cuda"]),
    default="auto",
    show_default=True,
    help="The machine that the result is for; auto is this one, or the accelerator that --provider names.",
)
@option("--include", multiple=True, help="Only nodes of this name: a glob, re:REGEX, or op:TYPE; repeatable.")
@option("--exclude", multiple=True, help="Not nodes of this name; repeatable.")
@option(
    "--override",
    multiple=True,
    metavar="'NAME: {K: V}'",
    help="For one tensor or node: {type: u8|s8|u16|s16|f32|f16}, {range: [0, 6]}, {min: 0}, {max: 6}, {scale: 0.1} or "
    "{zero-point: 128}, or several of these; repeatable.",
)
@option(
    "--everywhere",
    heading=_INT8,
    is_flag=True,
    help="Quantize also the nodes that are estimated to be slower in int8: the result is smaller, and slower.",
)
@option("--bits", heading=_WEIGHTS, type=int, help="2, 4 or 8. [default: 4]")
@option("--table-bits", heading=_WEIGHTS, type=int, help="The same for embedding tables. [default: as --bits]")
@option(
    "--block-size",
    heading=_WEIGHTS,
    type=int,
    help="How many weights share one scale: 16 to 256. [default: 32; 8 bits: 128]",
)
@option(
    "--weight-method",
    heading=_WEIGHTS,
    type=click.Choice(["rtn", "hqq", "gptq"]),
    help="How to round; gptq needs --calib. [default: rtn]",
)
@option(
    "--weight-form",
    heading=_WEIGHTS,
    type=click.Choice(["auto", "matmulnbits", "blocked"]),
    help="onnxruntime's operator, or the standard's. [default: auto]",
)
@option(
    "--weight-compute",
    heading=_WEIGHTS,
    type=click.Choice(["float32", "int8"]),
    help="What products compute in; int8 is much faster on CPUs and rounds activations. [default: int8]",
)
@option(
    "--keep-io-types/--half-io",
    heading=_HALF,
    default=None,
    help="Whether the model's inputs and outputs stay float32; half is for fp16. [default: they stay]",
)
@option("--only", is_flag=True, help="Do not fold and fuse first.")
@options.KEEP_OPSET
@switch_off(
    "--no-search",
    "search",
    help="Quantize as the other flags say: try no other way, and write the result even if it is slower.",
)
@options.OPTIMIZING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Convert to int8, half precision, or weights of few bits, after exact folding and fusing.

    Static int8 measures the ranges of activations on calibration data; dynamic int8 measures them at run time and needs
    no data. Half precision keeps nodes in float32 where numbers would leave its range. Weights alone can be in 2, 4 or
    8 bits. Where there are data, other ranges and roundings, repairs, and nodes in float are tried until accuracy falls
    by no more than --max-drop, 1% by default. Where speed is measured an int8 result is not slower than the input: the
    result may be the float model (model.optimized.onnx) or a copy (model.copy.onnx). Speed is measured for this machine
    and its providers only, not for another --target.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.quantize import QuantizeOptions

    execute(QuantizeOptions, context)
