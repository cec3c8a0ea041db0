#!/usr/bin/env python3
"""What weights in few bits do to size and latency of a BERT-base-shaped model, beside the folded and fused float model.

    python tests/bench/weights.py [--lengths 8 128] [--threads 1] [--budget 30]

A short sequence is what decoding looks like, where reading the weights is what takes time; a long one is a prompt. All
variants of one length are timed by `modelopt bench`: in interleaved rounds, a process for each. Ratios are to float.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MODELOPT = str(Path(sys.executable).with_name("modelopt"))
VARIANTS = {
    "int4": ["--mode", "weights"],
    "int4-blocks-of-128": ["--mode", "weights", "--block-size", "128"],
    "int4-hqq": ["--mode", "weights", "--weight-method", "hqq"],
    "int4-portable": ["--mode", "weights", "--weight-form", "blocked"],
    "int8": ["--mode", "weights", "--bits", "8"],
    "storage": ["--mode", "storage"],
}


def main() -> None:
    """Make the variants, print their sizes, time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--budget", default="30")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source, reference = folder / "source.onnx", folder / "float.onnx"
        subprocess.run([sys.executable, str(HERE / "shapes.py"), "bert-base", str(source)], check=True)
        modelopt("fold", source, "-o", folder / "folded.onnx", "-q", "--no-bench", "--no-verify")
        modelopt("fuse", folder / "folded.onnx", "-o", reference, "-q", "--no-bench", "--no-verify")
        made = [reference, *(variant(name, flags, reference) for name, flags in VARIANTS.items())]
        for length in options.lengths:
            print(f"\nsequence of {length}", flush=True)
            dims = ["--dim", "batch=1", "--dim", f"length={length}"]
            modelopt("bench", *made, *dims, "--threads", options.threads, "--budget", options.budget)


def variant(name: str, flags: list[str], reference: Path) -> Path:
    """Make one and print its size."""
    output = reference.with_name(f"{name}.onnx")
    started = time.perf_counter()
    modelopt("quantize", reference, "--only", *flags, "-o", output, "-q", "--no-bench", "--no-verify")
    sizes = output.stat().st_size, reference.stat().st_size
    print(f"{name}: {sizes[0] / 1e6:.0f} MB, {sizes[0] / sizes[1]:.0%} of float, {time.perf_counter() - started:.0f} s")
    return output


def modelopt(*words: object) -> None:
    """Run the command."""
    subprocess.run([MODELOPT, *map(str, words)], check=True)


if __name__ == "__main__":
    main()
