#!/usr/bin/env python3
"""Fold a model with 10 GB of external data, and print how long it takes and how much memory our process has at most.

    python tests/bench/big_fold.py [GIGABYTES]

The model is a chain of MatMul, each with a constant expression in front of it, as exporters leave them. It takes twice
its size on the disk of the temporary folder. Memory is what the operating system counts as the process's own peak,
mapped files included; the children that infer shapes are processes of their own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8192  # a weight takes 256 MiB


def main(gigabytes: float) -> None:
    """Make it, fold it, print one line."""
    layers = max(1, round(gigabytes * 1e9 / (WIDTH * WIDTH * 4)))
    with tempfile.TemporaryDirectory() as scratch:
        model, output = Path(scratch) / "big.onnx", Path(scratch) / "folded.onnx"
        build(model, layers)
        command = [str(Path(sys.executable).with_name("modelopt")), "fold", str(model), "-o", str(output)]
        seconds, peak = measured([*command, "-q", "--no-bench", "--no-verify"])
        size = sum(file.stat().st_size for file in Path(scratch).glob("big*"))
        nodes = len(onnx.load(model, load_external_data=False).graph.node)
        left = len(onnx.load(output, load_external_data=False).graph.node)
        print(f"{size / 1e9:.1f} GB, {nodes} nodes -> {left}: {seconds:.1f} s, peak memory {peak / 2**20:.0f} MiB")


def build(path: Path, layers: int) -> None:
    """Write the model and its data file, one weight at a time."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    value = "x"
    with path.with_name("big.data").open("wb") as data:
        for layer in range(layers):
            weight = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            weight.data_location = TensorProto.EXTERNAL
            for key, text in (("location", "big.data"), ("offset", data.tell()), ("length", WIDTH * WIDTH * 4)):
                weight.external_data.add(key=key, value=str(text))
            weights.append(weight)
            rng.standard_normal((WIDTH, WIDTH), dtype=np.float32).tofile(data)
            weights += [numpy_helper.from_array(np.array(layer + 1, np.float32), f"{part}{layer}") for part in "ab"]
            nodes += [
                helper.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"]),
                helper.make_node("Div", [f"a{layer}", f"b{layer}"], [f"one{layer}"]),
                helper.make_node("Mul", [f"m{layer}", f"one{layer}"], [f"y{layer}"]),
            ]
            value = f"y{layer}"
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def measured(command: list[str]) -> tuple[float, int]:
    """Wall seconds, and the peak resident bytes of the process itself."""
    started = time.monotonic()
    child = subprocess.Popen(command)
    peak = 0
    while child.poll() is None:
        peak = max(peak, _peak(child.pid))
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"modelopt fold failed with exit code {child.returncode}")
    return time.monotonic() - started, peak


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
