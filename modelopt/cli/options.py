"""Options that commands share. Each has the name of the field that holds it: see `modelopt.commands.option_groups`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli.command_help import Command
from modelopt.cli.declaring import group, option, switch_off
from modelopt.cli.gate_options import GATES
from modelopt.cli.parameter_types import (
    KeyValue,
    Names,
    Quantity,
    axes,
    mapping,
    one_or_several,
    sizes,
)
from modelopt.core import quantities
from modelopt.runtime.processes import ChildPool


class Optimizing(Command):
    """A command that makes a model: its child processes start before the modules that it needs are imported."""

    def invoke(self, ctx: click.Context) -> Any:
        """Start them and run the command."""
        given = ctx.params
        with ChildPool() as ctx.obj:
            if not given["print_recipe"] and given["model"] is not None:
                ctx.obj.start("onnx")
                if given["eval"] is not None or given["verify"] or given["bench"]:
                    ctx.obj.start("onnxruntime")
            return super().invoke(ctx)


METRIC_NAMES = (
    *("top1", "top5", "f1", "recall@1", "recall@5", "recall@10", "wer", "cer", "mae", "rmse"),
    *("cosine", "sqnr", "max-abs-error", "argmax-agreement", "agreement", "detection-agreement"),
)
"""What ``--metric`` takes besides ``file.py:function``: see `modelopt.measure.registry.names`."""

DATA_NAME = Names("random", name="data")
"""Where samples come from: a file, a folder, ``file.py:f``, or random."""

MODEL = click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
OPSET = option("--opset", type=click.IntRange(1), metavar="N", help="Convert to this opset first, if it is later.")
KEEP_OPSET = option(
    "--keep-opset", is_flag=True, help="Do not convert to a later opset where a fusion needs one and it is verified."
)
OUTPUT = option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), help="Output file; - is stdout.")

NO_BENCH = switch_off("--no-bench", "bench", help="Do not measure latency.")

SAYING = group(
    option(
        "--json", "as_json", is_flag=True, heading="Output", help="Print one JSON document to stdout, nothing else."
    ),
    option("-v", "--verbose", count=True, heading="Output", help="Say more."),
    option("-q", "--quiet", is_flag=True, heading="Output", help="Say nothing but errors."),
)


REPORT = option(
    "--report", type=click.Path(path_type=Path), heading="Output", help="Also write the report: .json, .md or .html."
)

LAYOUT = group(
    option(
        "--batch-axis",
        multiple=True,
        type=KeyValue(),
        callback=axes,
        metavar="NAME=AXIS",
        heading="Accuracy",
        help="Axis of an input along which arrays hold samples: state=1; repeatable. [default: by names and sizes]",
    ),
    option("--whole-files", is_flag=True, heading="Accuracy", help="Each .npz or .npy file is one feed."),
    option(
        "--label-column", metavar="NAME", heading="Accuracy", help="Column of a .csv with its labels. [default: label]"
    ),
    option(
        "--tokenizer",
        type=click.Path(),
        heading="Accuracy",
        help="A tokenizer.json: DATA is text, as .txt, .jsonl or .csv.",
    ),
)

DATA = group(
    option(
        "--eval",
        type=DATA_NAME,
        metavar="DATA",
        heading="Accuracy",
        help="Data: npz, npy, images, sound, csv, text, or file.py:f.",
    ),
    option(
        "--eval-limit", type=click.IntRange(1), metavar="N", heading="Accuracy", help="Use at most N samples of it."
    ),
    option("--labels", type=click.Path(), heading="Accuracy", help="Its labels: a file with 'name,label' lines."),
    option(
        "--metric",
        type=Names(*METRIC_NAMES),
        multiple=True,
        callback=one_or_several,
        metavar="NAME",
        heading="Accuracy",
        help="With labels top1, top5, f1, recall@1, wer, cer, mae, rmse, file.py:f; without cosine, sqnr, "
        "max-abs-error, argmax-agreement, detection-agreement; or OUTPUT=NAME for one output: cosine, "
        "relative-error, rank-agreement, ignore …; may be repeated. [default: by the data and the outputs]",
    ),
    option(
        "--preprocess",
        heading="Accuracy",
        help="For images: resize=224x224,scale=1/255,mean=0.5, imagenet, clip, vit …, or a "
        "preprocessor_config.json; for sound: rate=16000.",
    ),
    LAYOUT,
)

TIMING = group(
    option(
        "--provider",
        type=Names("cpu", "cuda", "tensorrt", "openvino", files=False),
        default="cpu",
        show_default=True,
        heading="Latency",
        help="cpu, cuda, tensorrt, openvino, or a full name.",
    ),
    option(
        "--provider-option",
        "provider_options",
        multiple=True,
        type=KeyValue(),
        callback=mapping,
        heading="Latency",
        help="An option of the provider; repeatable.",
    ),
    option(
        "--threads",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        heading="Latency",
        help="Threads that run one operator. [default: all usable cores]",
    ),
    option(
        "--budget",
        type=click.FloatRange(0, min_open=True),
        default=60.0,
        metavar="SECONDS",
        show_default=True,
        heading="Latency",
        help="Time for a comparison, at most.",
    ),
    option(
        "--warmup",
        type=click.FloatRange(0),
        default=0.3,
        metavar="SECONDS",
        show_default=True,
        heading="Latency",
        help="Time for warming up in each process, at most.",
    ),
    option(
        "--processes",
        type=click.IntRange(1),
        default=8,
        metavar="N",
        show_default=True,
        heading="Latency",
        help="Fresh processes of each model, at least.",
    ),
    option(
        "--rounds",
        type=click.IntRange(2),
        default=5,
        metavar="N",
        show_default=True,
        heading="Latency",
        help="Interleaved rounds in each process, at least.",
    ),
)

MODEL_LIMITS = group(
    option("--allow-hardlinks", is_flag=True, heading="Limits", help="Accept external data files that are hardlinks."),
    option(
        "--max-nodes",
        type=click.IntRange(1),
        metavar="N",
        heading="Limits",
        help="Accept models of so many nodes and initializers. [default: 100000]",
    ),
)

LIMITS = group(
    option(
        "--op-library",
        "op_libraries",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        multiple=True,
        metavar="FILE",
        help="A shared library of custom operators, which the child processes load and run; repeatable.",
    ),
    option(
        "--memory-limit",
        type=Quantity(quantities.n_bytes, "size"),
        heading="Limits",
        help="Memory of a child process. [default: 1 GiB + 8 × model + 64 × inputs, at most 80% of what is free]",
    ),
    option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        heading="Limits",
        help="For one load or run. [default: 600]",
    ),
    MODEL_LIMITS,
)

RANDOM_INPUTS = group(
    option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Samples per run."),
    option(
        "--dim",
        "dims",
        multiple=True,
        type=KeyValue(),
        callback=sizes,
        help="Size of a free dimension of random inputs: name=8.",
    ),
)

OPTIMIZING = group(
    OUTPUT,
    option(
        "--external-data",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Whether weights go to a data file beside the output; auto is above 2 GiB only.",
    ),
    option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for what is random."),
    switch_off("--no-verify", "verify", help="Do not compare the result with the original."),
    NO_BENCH,
    DATA,
    GATES,
    TIMING,
    LIMITS,
    SAYING,
    option("--explain", is_flag=True, heading="Output", help="Show what each pass did not do, and why."),
    option("--print-recipe", is_flag=True, heading="Output", help="Print the recipe that this command runs, and stop."),
    option(
        "--dump-dir",
        type=click.Path(path_type=Path, file_okay=False),
        heading="Output",
        help="Write each pass's model here.",
    ),
    option(
        "--force", is_flag=True, heading="Output", help="Replace a file of another kind, but never one that is read."
    ),
    REPORT,
)
