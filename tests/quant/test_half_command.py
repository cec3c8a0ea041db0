"""Half precision at the command line, with inputs and outputs in half precision too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.convert_half import Compute, ConvertHalf
from modelopt.quant.float16.operator_types import HalfType
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import MLP, evaluation, modelopt, sample
from tests.quant.half_models import FEEDS, WEIGHT, half_of
from tests.quant_tools import context, model, run

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def test_half_inputs_and_outputs(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x, int64[n] i) => (float[n,8] y, float[n,8] e, float[n,8] same, int64[n] j)
    {{ a = MatMul (x, w) y = Relu (a) e = Exp (a) same = Identity (x) j = Add (i, i) }}"""
    original, result = model(text, w=WEIGHT), model(text, w=WEIGHT)
    kind = ConvertHalf(keep_io_types=False)
    changes = kind.apply(result, context(runner))
    assert invariants.check(result) == []
    assert [(spec.name, spec.dtype) for spec in graph.signature(result).inputs] == [("x", "float16"), ("i", "int64")]
    outputs = [("y", "float16"), ("e", "float16"), ("same", "float16"), ("j", "int64")]
    assert [(spec.name, spec.dtype) for spec in graph.signature(result).outputs] == outputs
    assert kind.signature_after(graph.signature(original)).outputs == graph.signature(result).outputs
    assert changes.facts["casts"] == 2
    wide: dict[str, np.ndarray] = FEEDS | {"i": np.arange(3)}
    feeds: dict[str, np.ndarray] = {"x": FEEDS["x"].astype(np.float16), "i": np.arange(3)}
    for expected, found in zip(run(original, wide), run(result, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("options", [{"type": HalfType.BF16}, {"compute": Compute.FLOAT}])
def test_inputs_and_outputs_that_cannot_be_half(runner: WorkerRunner, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="stay float32"):
        half_of(
            f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ y = Relu (x) }}", runner, keep_io_types=False, **options
        )


@pytest.mark.parametrize(("name", "mode"), [("digits_vit", "fp16"), ("digits_loop", "fp16"), ("digits_rnn", "bf16")])
def test_the_command_halves_a_model(name: str, mode: str, tmp_path: Path) -> None:
    options = ("--no-bench", "--eval", evaluation(name), "--max-drop", "1%", "--max-size", "60%")
    modelopt("quantize", "--mode", mode, sample(name), "-o", "half.onnx", *options, cwd=tmp_path).succeeded()
    loaded = ir.from_proto(onnx.load(tmp_path / "half.onnx"))
    assert graph.signature(loaded) == graph.signature(ir.from_proto(onnx.load(sample(name))))


def test_the_command_makes_half_inputs_and_compares_all_the_same(tmp_path: Path) -> None:
    options = ("--half-io", "--eval", evaluation("digits_mlp"), "--max-drop", "1%", "--budget", "0.2")
    modelopt("quantize", "--mode", "fp16", MLP, "-o", "half.onnx", *options, cwd=tmp_path).succeeded()
    loaded = ir.from_proto(onnx.load(tmp_path / "half.onnx"))
    assert {value.dtype for value in (*loaded.graph.inputs, *loaded.graph.outputs)} == {ir.DataType.FLOAT16}


def test_flags_of_integers_are_refused(tmp_path: Path) -> None:
    ran = modelopt("quantize", "--mode", "fp16", MLP, "--method", "mse", "-o", "half.onnx", cwd=tmp_path)
    ran.refused(2, "--method is not for --mode fp16")
    ran = modelopt("quantize", "--mode", "bf16", MLP, "--calib", "random", cwd=tmp_path)
    ran.refused(2, "--calib is not for --mode bf16")
    modelopt("quantize", "--mode", "dynamic", MLP, "--half-io", cwd=tmp_path).refused(
        2, "--keep-io-types is not for --mode dynamic"
    )
