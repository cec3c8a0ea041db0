"""Quantization behind other passes and behind itself, on the models that the repository ships."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelopt.runtime import installation
from tests.command_line import calibration, evaluation, modelopt, sample, shell
from tests.quant_tools import exactly
from tests.runtime_tools import session

QUICK = "--no-bench --no-verify"
PLAIN = ("--no-search", "--no-bench", "--no-verify")


def accuracy(path: Path, data: Path, count: int = 200) -> float:
    """Top-1 on samples one at a time."""
    arrays = np.load(data)
    loaded = session(exactly(path.read_bytes()))
    (given,) = loaded.get_inputs()
    answers = [loaded.run(None, {given.name: arrays[given.name][i : i + 1]})[0].argmax() for i in range(count)]
    return float(np.mean(np.array(answers) == arrays["label"][:count]))


def test_fold_fuse_contrib_quantize(tmp_path: Path) -> None:
    """Attention is one operator then: what it reads and what reads it is in integers, itself it is not."""
    model, data = sample("digits_vit"), calibration("digits_vit")
    shell(
        f"modelopt fold {model} -o - {QUICK} | modelopt fuse --contrib - -o - {QUICK}"
        f" | modelopt quantize - --only --no-search --everywhere --calib {data} --report r.json -o out.onnx {QUICK}",
        tmp_path,
    ).succeeded()
    made = onnx.load(tmp_path / "out.onnx")
    counts = Counter(node.op_type for node in made.graph.node)
    assert counts["Attention"] == 3
    assert counts["BiasGelu"] == 3
    kernels = [node for node in made.graph.node if node.op_type in {"MatMul", "Gemm", "Conv"}]
    producers = {name: node.op_type for node in made.graph.node for name in node.output}
    assert {producers[node.input[i]] for node in kernels for i in (0, 1)} == {"DequantizeLinear"}
    assert "a fused operator of onnxruntime" in (tmp_path / "r.json").read_text(encoding="utf-8")
    evaluated = evaluation("digits_vit")
    assert accuracy(tmp_path / "out.onnx", evaluated) > accuracy(model, evaluated) - 0.01


@pytest.mark.parametrize("name", ["digits_loop", "digits_earlyexit"])
def test_bodies_of_trained_models(name: str, tmp_path: Path) -> None:
    command = ("quantize", sample(name), "--calib", calibration(name), "--everywhere", *PLAIN, "-o", "out.onnx")
    modelopt(*command, cwd=tmp_path).succeeded()
    evaluated = evaluation(name)
    assert accuracy(tmp_path / "out.onnx", evaluated) > accuracy(sample(name), evaluated) - 0.01
    if installation.keeps_captured_integers():
        assert (tmp_path / "out.onnx").stat().st_size < 0.6 * sample(name).stat().st_size


@pytest.mark.parametrize("name", ["digits_vit", "digits_cnn", "digits_earlyexit", "digits_loop"])
def test_quantizing_twice_is_quantizing_once(name: str, tmp_path: Path) -> None:
    """With all the exact passes before it."""
    given = ("--calib", calibration(name), "--everywhere", *PLAIN)
    modelopt("quantize", sample(name), *given, "-o", "one.onnx", cwd=tmp_path).succeeded()
    modelopt("quantize", "one.onnx", *given, "--report", "r.json", "-o", "two.onnx", cwd=tmp_path).succeeded()
    assert "already quantized" in (tmp_path / "r.json").read_text(encoding="utf-8")
    assert (tmp_path / "two.onnx").read_bytes() == (tmp_path / "one.onnx").read_bytes()
