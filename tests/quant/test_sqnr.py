"""The figure for how well integers hold a tensor is what its numbers give, one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelopt.calibration.histogram import Collector
from modelopt.core.changes import TensorError
from modelopt.quant.numerics import sqnr
from modelopt.quant.numerics.scheme import (
    Grid,
    IntType,
    QParams,
    Symmetry,
    dequantize,
    params_from_range,
    quantize,
)
from modelopt.quant.numerics.scheme import weight_params as params_of_weight
from tests.command_line import CNN, calibration, modelopt

U8 = Grid(IntType.U8, Symmetry.ASYMMETRIC)


def exactly(values: np.ndarray, params: QParams) -> float:
    noise = np.sum((values - dequantize(quantize(values, params), params)) ** 2)
    return float(10 * np.log10(np.sum(values**2) / noise))


@pytest.mark.parametrize("high", [1.5, 3.0, 4.0])
def test_an_activation_is_told_from_its_histogram(high: float) -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal(50_000), 0).astype(np.float32)
    collector = Collector()
    collector.observe(values)
    params = params_from_range(0.0, high, U8)
    told = sqnr.of_activation("x", collector.histogram(), params)
    assert (told.name, told.kind, told.low) == ("x", "activation", 0.0)
    assert told.high == pytest.approx(high, rel=1e-6)
    assert told.sqnr_db == pytest.approx(exactly(values, params), abs=0.3)


@pytest.mark.parametrize("shape", [(8, 16), (256, 512)])
def test_a_weight_is_told_from_its_numbers_or_a_few_channels(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    params = params_of_weight(array, 0)
    told = sqnr.of_weight("w", array, params)
    assert told.sqnr_db == pytest.approx(exactly(array, params), abs=0.3)


def test_what_loses_nothing_has_no_ratio() -> None:
    array = np.array([-127, 0, 127], np.float32)
    assert sqnr.of_weight("w", array, params_from_range(-127.0, 127.0, Grid(IntType.S8, Symmetry.SYMMETRIC))) == (
        TensorError("w", "weight", -127.0, 127.0, None)
    )


def test_the_report_lists_them(tmp_path: Path) -> None:
    flags = ("--no-search", "--everywhere", "--no-bench", "--no-verify", "-o", "x.onnx")
    done = modelopt("quantize", CNN, "--calib", calibration("digits_cnn"), *flags, "--json", cwd=tmp_path).succeeded()
    tensors = json.loads(done.out)["passes"][-1]["tensors"]
    assert {tensor["kind"] for tensor in tensors} == {"activation", "weight"}
    assert all(tensor["sqnr_db"] is None or 15 < tensor["sqnr_db"] < 90 for tensor in tensors)
    flags = (*flags[:-1], "y.onnx")
    shown = modelopt("quantize", CNN, "--calib", calibration("digits_cnn"), *flags, "--explain", cwd=tmp_path)
    assert "quantized tensors, worst first" in shown.succeeded().err
