#!/usr/bin/env python3
"""How much faster models are without some of their channels, on one thread, all models of a row timed side by side.

    python tests/bench/pruning_speed.py [--resnet50 FILE] [--mobilenetv2 FILE] [--bert FILE] [--budget SECONDS]

The files are models as tests/bench/shapes.py makes them; a row is left out where its file is not given. Weights are
random, so only speed is measured: channels go by the norm of their weights, and nothing is repaired.

==============================  ======================================================================================
ResNet-50, half the channels    every group keeps half, in multiples of 16; beside it a control that keeps about as many
                                without alignment, as rules of other tools do (52 % of each group)
ResNet-50, half the MACs        widths are searched: --target-macs 50%
MobileNetV2, half the MACs      likewise
BERT                            half of the FFN's width, and a quarter of the heads
ResNet-50, then int8            the product of two speedups: pruned, and quantized; beside it prune, then quantize
==============================  ======================================================================================
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import modelopt

MODELOPT = Path(sys.executable).with_name("modelopt")

GOALS = {
    "resnet50 half the channels": 2.2,
    "resnet50 half the MACs": 1.7,
    "mobilenetv2 half the MACs": 1.4,
    "bert half the FFN, 3/4 of the heads": 1.35,
}
"""What each row shall reach."""

_PRODUCT = 0.1
"""How far prune and quantize together may be from the product of the two."""


def made(model: Path, output: Path, *flags: str, command: str = "prune") -> Path:
    """Run the command and return what it wrote."""
    quiet = ("--no-bench",) if "--target-macs" not in flags else ("--threads", "1", "--budget", "5")
    subprocess.run([MODELOPT, command, *flags, *quiet, "--no-verify", "-q", "--keep", "-o", output, model], check=True)
    return output


def timed(models: Sequence[Path], budget: float) -> list[tuple[float, float, float]]:
    """How many times as fast as the first each other model is, with its interval, timed side by side on one thread."""
    report = modelopt.bench(list(models), threads=1, budget=budget)
    return [(ratio.point, ratio.low, ratio.high) for ratio in report.ratios[1:] if ratio is not None]


def show(row: str, found: tuple[float, float, float]) -> None:
    """Print a row, with its goal where it has one."""
    goal = GOALS.get(row)
    words = "" if goal is None else f"   goal {goal:g}×: {'reached' if found[0] >= goal else 'MISSED'}"
    print(f"{row:<44} {found[0]:5.2f}× ({found[1]:.2f}–{found[2]:.2f}){words}", flush=True)


def resnet50(model: Path, folder: Path, budget: float) -> None:
    """The rows of ResNet-50."""
    half = made(model, folder / "half.onnx", "--pattern", "channel", "--sparsity", "0.5", "--align", "16")
    control = made(model, folder / "control.onnx", "--pattern", "channel", "--sparsity", "0.48")
    macs = made(model, folder / "macs.onnx", "--pattern", "channel", "--target-macs", "50%")
    first, second, third = timed([model, half, control, macs], budget)
    show("resnet50 half the channels", first)
    show("resnet50 52 % of the channels, not aligned", second)
    show("resnet50 half the MACs", third)
    flags = ("--calib", "random", "--calib-limit", "8", "--no-search")
    quantized = made(model, folder / "int8.onnx", *flags, command="quantize")
    both = made(half, folder / "both.onnx", *flags, command="quantize")
    pruned, integer, together = timed([model, half, quantized, both], budget)
    show("resnet50 int8", integer)
    show("resnet50 pruned, then int8", together)
    product = pruned[0] * integer[0]
    is_near = together[0] >= (1 - _PRODUCT) * product
    print(f"{'product of the two':<44} {product:5.2f}×   {'within' if is_near else 'NOT within'} {_PRODUCT:.0%}")


def mobilenetv2(model: Path, folder: Path, budget: float) -> None:
    """The row of MobileNetV2."""
    macs = made(model, folder / "mobile.onnx", "--pattern", "channel", "--target-macs", "50%")
    show("mobilenetv2 half the MACs", timed([model, macs], budget)[0])


def bert(model: Path, folder: Path, budget: float) -> None:
    """The row of BERT."""
    narrow = made(model, folder / "ffn.onnx", "--pattern", "channel", "--sparsity", "0.5")
    fewer = made(narrow, folder / "heads.onnx", "--pattern", "head", "--sparsity", "0.25")
    show("bert half the FFN, 3/4 of the heads", timed([model, fewer], budget)[0])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    rows = {"resnet50": resnet50, "mobilenetv2": mobilenetv2, "bert": bert}
    for name in rows:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--budget", type=float, default=60.0)
    asked = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        for name, row in rows.items():
            model = getattr(asked, name)
            if model is not None:
                row(model.resolve(), Path(folder), asked.budget)


if __name__ == "__main__":
    main()
