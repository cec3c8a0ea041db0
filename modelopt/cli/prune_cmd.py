"""`modelopt prune`."""

from __future__ import annotations

from typing import Any

import click

from modelopt.cli import options
from modelopt.cli.declaring import option, switch_off
from modelopt.cli.parameter_types import Fraction, ShareOfZeros

_ZEROS = "Zeros (--pattern unstructured, 2:4 or 4:8)"
_REMOVING = "Channels, heads and blocks (--pattern channel, head or layer)"


@click.command(
    "prune",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt prune --sparsity 0.5 model.onnx      # writes model.pruned.onnx
  modelopt prune --sparsity 30% --scope global --eval labelled.npz --max-drop 1% model.onnx
  modelopt prune --sparsity 60% --importance second-order --update --calib calib.npz model.onnx
  modelopt prune --eval labelled.npz --max-drop 1% model.onnx   # as many zeros as that permits
  modelopt prune --pattern 2:4 --exclude '*head*' --exclude op:LSTM model.onnx
  modelopt prune --pattern channel --calib calib.npz --eval labelled.npz --max-drop 1% model.onnx
  modelopt prune --pattern channel --calib calib.npz --target-speedup 1.5 model.onnx
  modelopt prune --pattern head --sparsity 25% model.onnx        # a quarter of the heads of each attention
  modelopt prune --pattern layer --sparsity 25% model.onnx       # a quarter of the residual blocks
  modelopt prune --pattern layer --calib calib.npz --eval labelled.npz --max-drop 1% model.onnx""",
)
@options.MODEL
@option(
    "--pattern",
    type=click.Choice(["unstructured", "2:4", "4:8", "channel", "head", "layer"]),
    default="unstructured",
    show_default=True,
    help="Where weights become zero: anywhere, or 2 of 4 (4 of 8) neighbours; or what is removed: whole channels, "
    "heads of attention, or residual blocks (layer): of x + f(x) only x is left.",
)
@option(
    "--sparsity",
    type=ShareOfZeros(),
    help="The share of weights that become zero, of the channels or heads of each layer that are removed, or of the "
    "residual blocks: 0.5 or 50%. [default: 0.5, or as far as --max-drop and the targets ask]",
)
@option(
    "--importance",
    type=click.Choice(["magnitude", "l2", "l1", "wanda", "second-order", "stability", "influence", "random"]),
    help="What decides which go: their size (magnitude of weights; l2, l1 of channels; l2 of blocks), what they do on "
    "the data of --calib (wanda, second-order, stability; influence of blocks), or chance (random). [default: "
    "magnitude; of channels second-order and of blocks influence with --calib, else l2]",
)
@option(
    "--calib",
    type=options.DATA_NAME,
    metavar="DATA",
    help="Data to choose channels or weights with, and to repair what is lost: npz, npy, .pb, images, csv, file.py:f.",
)
@option(
    "--calib-limit",
    type=click.IntRange(1),
    metavar="N",
    help="Samples of it to use. [default: 256]",
)
@option(
    "--include", multiple=True, help="Only nodes and tensors of this name: a glob, re:REGEX, or op:TYPE; repeatable."
)
@option("--exclude", multiple=True, help="Not nodes and tensors of this name; repeatable.")
@option(
    "--scope",
    type=click.Choice(["layer", "global", "row"]),
    default="layer",
    show_default=True,
    heading=_ZEROS,
    help="Rank weights within each layer, over all of them, or in each row that one output sums over.",
)
@option(
    "--update",
    is_flag=True,
    heading=_ZEROS,
    help="Fit the weights that stay to --calib: they make up for those that became zero.",
)
@option(
    "--target-speedup",
    type=click.FloatRange(1, min_open=True),
    metavar="RATIO",
    heading=_REMOVING,
    help="Remove until the model is so many times as fast on this machine, as far as --max-drop permits.",
)
@option(
    "--target-macs",
    type=Fraction(),
    heading=_REMOVING,
    help="Remove until this share of the multiply-accumulates is left, as far as --max-drop permits.",
)
@option(
    "--align",
    metavar="N|auto",
    heading=_REMOVING,
    help="Keep multiples of so many channels; auto measures which multiple the kernels of this machine like. "
    "[default: auto where widths are searched, 1 with --sparsity]",
)
@switch_off(
    "--no-repair",
    "repair",
    heading=_REMOVING,
    help="Leave the layers behind what is removed as they are; with --calib they are fitted to the original.",
)
@option(
    "--keep-opset",
    is_flag=True,
    heading=_REMOVING,
    help="Do not convert to a later opset where a fusion needs one and it is verified.",
)
@options.OPTIMIZING
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """Set the smallest weights to zero, or remove whole channels, heads and residual blocks.

    Zeros let the file compress better. The model is not smaller in memory, and onnxruntime is not faster: it stores and
    computes zeros like any other number.

    --pattern channel and --pattern head remove channels and heads of attention from every tensor that they are part of.
    The model is smaller and does less work. With --sparsity each layer loses the same share. Without it, a search finds
    the widths that save most time on this machine for the accuracy that they cost. It goes as far as --target-speedup,
    --target-macs and --max-size ask, and as --max-drop permits (1% where there are data). Where nothing pays, the
    result is the input.

    --pattern layer removes whole residual blocks: a sum x + f(x) becomes x, where that has the same shape, and all that
    only f needs goes. --sparsity says which share of the blocks. Without it they go one by one, the least important
    first, within the same limits.
    """
    from modelopt.cli.optimizing import execute
    from modelopt.commands.prune import PruneOptions

    execute(PruneOptions, context)
