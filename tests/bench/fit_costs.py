#!/usr/bin/env python3
"""Fit the costs by which `quantize` estimates where int8 pays, on this machine or as on one without VNNI.

    python tests/bench/fit_costs.py [--machine avx2|avx512]

Prints the constants of `modelopt/quant/numerics/cost_model.py` in nanoseconds, one thread, and how well they
and those in use foretell what was measured. Each shape is timed in float and in int8 in turn, and the median
of the differences is what is fitted: least squares, each shape weighted by the inverse of its float time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from modelopt.core import targets
from modelopt.quant.numerics.cost_model import DynamicCosts, StaticCosts, dynamic_costs, static_costs
from tests.machines.ways import MASKED, rerun

KIND = targets.detect().kind
Costs = TypeVar("Costs", StaticCosts, DynamicCosts)


def known(costs: Costs | None) -> Costs:
    """The estimates in use."""
    if costs is None:
        sys.exit(f"there are no estimates for {KIND.value}")
    return costs


STATIC, DYNAMIC = known(static_costs(KIND)), known(dynamic_costs(KIND))
_TURNS = 30
_TURN_NS = 2_000_000
_LANES = 16


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=MASKED)
    given = parser.parse_args()
    if given.machine is not None:
        sys.exit(rerun(given.machine, __file__))
    print(f"onnxruntime {ort.__version__}, {KIND.value}, one thread\n\nstatic")
    products()
    convolutions()
    depthwise()
    conversions()
    print("\ndynamic")
    dynamic()
    recurrent()


def fit(
    names: Sequence[str],
    rows: Sequence[Sequence[float]],
    saved: Sequence[float],
    floats: Sequence[float],
    used: Sequence[float],
) -> None:
    """Print the coefficients of what int8 saves, and how often they and those in use foretell that it saves time."""
    design, wanted, weight = np.array(rows), np.array(saved), 1 / np.array(floats)
    found = _not_negative(design * weight[:, None], wanted * weight)
    for name, value, now in zip(names, found, used, strict=True):
        print(f"  {name} = {value:.4g} (in use: {now:.4g})")
    for title, values in (("fitted", found), ("in use", np.array(used))):
        told = design @ values
        right = np.mean((told > 0) == (wanted > 0))
        off = np.median(np.abs(told - wanted) / np.array(floats))
        print(
            f"    {title}: {right:.0%} of the signs of {len(saved)} shapes, off by {off:.0%} of the float time (median)"
        )


def _not_negative(design: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients: no operator costs less than nothing. float64[columns]."""
    found, used = np.zeros(design.shape[1]), np.ones(design.shape[1], bool)
    while used.any():
        solved, *_ = np.linalg.lstsq(design[:, used], wanted, rcond=None)
        if (solved >= 0).all():
            found[used] = solved
            break
        used[np.flatnonzero(used)[solved.argmin()]] = False
    return found


def products() -> None:
    """Rows by a weight, float and QLinearMatMul."""
    rows, saved, floats = [], [], []
    for count, (depth, columns) in itertools.product((1, 8, 64, 196), ((64, 64), (128, 512), (512, 512), (768, 3072))):
        weight = _numbers(depth, columns)
        plain = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, (count, depth))
        node = helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"])
        integer = _model([node], {**_scales(), "w": _bytes(depth, columns)}, (count, depth), TensorProto.UINT8)
        before, after = _timed(plain, integer)
        rows.append([count * depth * columns, -count * columns])
        saved.append(before - after)
        floats.append(before)
    names = ["saved_per_mac", "product_rescale"]
    fit(names, rows, saved, floats, [getattr(STATIC, name) for name in names])


def convolutions() -> None:
    """Dense convolutions, channels in fours and not."""
    for title, widths in (("", (16, 32, 64, 128)), ("unaligned_", (18, 34, 66))):
        rows, saved, floats = [], [], []
        for width, size, stride in itertools.product(widths, (1, 3, 5), (1, 2)):
            side = 28 if width > 32 else 56
            before, after = _timed(*_convolution(width, width, size, stride, side, 1))
            written = width * ((side + stride - 1) // stride) ** 2
            computed = width * size * size * (-(-width // _LANES) * _LANES)
            rows.append([written * computed / width, -written * (size * size if size > 1 else 0) / width, -written])
            saved.append(before - after)
            floats.append(before)
        names = [f"{title}{name}" for name in ("saved_in_conv", "gather", "rescale")]
        fit(names, rows, saved, floats, [getattr(STATIC, name) for name in names])


def depthwise() -> None:
    """Convolutions of one channel each."""
    rows, saved, floats = [], [], []
    for width, size, side in itertools.product((32, 96, 192), (3, 5), (14, 28, 56)):
        before, after = _timed(*_convolution(width, width, size, 1, side, width))
        rows.append([-width * side * side])
        saved.append(before - after)
        floats.append(before)
    fit(["depthwise"], rows, saved, floats, [STATIC.depthwise])


def conversions() -> None:
    """A QuantizeLinear and a DequantizeLinear, beside nothing."""
    counts, times = [], []
    for count in (1000, 10_000, 100_000, 1_000_000):
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("Reshape", ["q", "shape"], ["r"]),
            helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
        ]
        shape = {"shape": np.array([1, count], np.int64)}
        both = _model(nodes, {**_scales(), **shape}, (count,))
        none = _model([helper.make_node("Reshape", ["x", "shape"], ["y"])], shape, (count,))
        before, after = _timed(none, both)
        counts.append(count)
        times.append((after - before) / 2)
    slope, start = np.polyfit(counts, times, 1, w=1 / np.array(times))
    print(f"  convert = {slope:.3g} (in use: {STATIC.convert})\n  launch = {start:.3g} (in use: {STATIC.launch})")


def dynamic() -> None:
    """Rows by a weight, float and with the activation quantized at run time."""
    rows, saved, floats = [], [], []
    sizes = ((32, 32), (64, 256), (256, 256), (512, 2048), (768, 768), (768, 3072))
    for count, (depth, columns) in itertools.product((1, 4, 16, 64, 197), sizes):
        weight = _numbers(depth, columns)
        plain = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, (count, depth))
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "sx", "zx"]),
            helper.make_node("MatMulInteger", ["q", "w", "zx", "zw"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sx", "s"], ["ss"]),
            helper.make_node("Mul", ["f", "ss"], ["y"]),
        ]
        integer = _model(nodes, {**_scales(), "w": _bytes(depth, columns)}, (count, depth))
        before, after = _timed(plain, integer)
        rows.append([count * depth * columns, -count * depth, -count * columns, -1.0])
        saved.append(before - after)
        floats.append(before)
    names = ["saved_per_mac", "convert", "rescale", "launch"]
    fit(names, rows, saved, floats, [getattr(DYNAMIC, name) for name in names])


def recurrent() -> None:
    """LSTM beside DynamicQuantizeLSTM: what a step costs more than its products explain."""
    steps, told = 32, []
    for width in (16, 64, 128, 256, 512):
        gates = 4 * width
        weights = {"w": _numbers(1, gates, width), "r": _numbers(1, gates, width)}
        plain = _model(
            [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=width)], weights, (steps, 1, width)
        )
        stored = {
            **{name: np.ascontiguousarray(_bytes(1, width, gates)) for name in ("w", "r")},
            **{name: np.full((1,), 0.01, np.float32) for name in ("sw", "sr")},
            **{name: np.zeros((1,), np.int8) for name in ("zw", "zr")},
        }
        node = helper.make_node(
            "DynamicQuantizeLSTM",
            ["x", "w", "r", "", "", "", "", "", "sw", "zw", "sr", "zr"],
            ["y"],
            domain="com.microsoft",
            hidden_size=width,
        )
        before, after = _timed(plain, _model([node], stored, (steps, 1, width)))
        products = gates * 2 * width * DYNAMIC.saved_per_mac - 2 * width * DYNAMIC.convert - 2 * gates * DYNAMIC.rescale
        cost = products - (before - after) / steps
        told.append(f"{width} units {before / after:.2f}× (step = {cost:.0f})")
    print(f"  LSTM of {steps} steps, times as fast in int8; step in use: {DYNAMIC.step}\n    {', '.join(told)}")


def _convolution(
    inputs: int, outputs: int, size: int, stride: int, side: int, group: int
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    window: dict[str, Any] = {
        "strides": [stride] * 2,
        "pads": [size // 2] * 4,
        "group": group,
        "kernel_shape": [size] * 2,
    }
    shape = (outputs, inputs // group, size, size)
    plain = _model(
        [helper.make_node("Conv", ["x", "w"], ["y"], **window)], {"w": _numbers(*shape)}, (1, inputs, side, side)
    )
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"], **window)
    stored = {**_scales(), "w": _bytes(*shape)}
    return plain, _model([node], stored, (1, inputs, side, side), TensorProto.UINT8)


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-64, 64, shape).astype(np.int8)


def _scales() -> dict[str, np.ndarray]:
    return {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8), "zw": np.array(0, np.int8)}


def _model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: Sequence[int],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items() if name in read]
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    outputs = [helper.make_tensor_value_info("y", dtype, None)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, stored), opset_imports=imports, ir_version=8
    )


def _timed(first: onnx.ModelProto, second: onnx.ModelProto) -> tuple[float, float]:
    """Median nanoseconds of a run of each, in turns."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    opened = []
    for model in (first, second):
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        value = session.get_inputs()[0]
        feed = _numbers(*value.shape)
        feeds = {"x": feed if "float" in value.type else (feed * 20 + 128).clip(0, 255).astype(np.uint8)}
        session.run(None, feeds)
        started = time.perf_counter_ns()
        session.run(None, feeds)
        runs = max(1, _TURN_NS // max(1, time.perf_counter_ns() - started))
        opened.append((session, feeds, runs))
    times: list[list[float]] = [[], []]
    for turn in range(_TURNS):
        for which in (turn % 2, 1 - turn % 2):
            session, feeds, runs = opened[which]
            started = time.perf_counter_ns()
            for _ in range(runs):
                session.run(None, feeds)
            times[which].append((time.perf_counter_ns() - started) / runs)
    return float(np.median(times[0])), float(np.median(times[1]))


if __name__ == "__main__":
    main()
