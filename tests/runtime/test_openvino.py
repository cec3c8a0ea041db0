"""A second provider for real: `make test-openvino` runs these where onnxruntime-openvino stands in for onnxruntime."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from tests.command_line import modelopt
from tests.paths import SAMPLE_MODELS

SAMPLE = SAMPLE_MODELS / "digits_cnn"
ON_CPU = ("--provider", "openvino", "--provider-option", "device_type=CPU")
BF16 = ("--provider-option", 'load_config={"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}')
FEW = ("--budget", "0.2", "--warmup", "0.1")


def _installed() -> bool:
    try:
        importlib.metadata.version("onnxruntime-openvino")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(not _installed(), reason="onnxruntime-openvino is not installed: make test-openvino"),
]


@pytest.mark.parametrize("precision", [(), BF16], ids=["float32", "bf16"])
def test_bench_says_what_ran_where(precision: tuple[str, ...], tmp_path: Path) -> None:
    done = modelopt("bench", str(SAMPLE / "model.onnx"), *ON_CPU, *precision, *FEW, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert result["node_providers"].get("OpenVINOExecutionProvider", 0) > 0


def test_compare_one_model_on_two_providers(tmp_path: Path) -> None:
    model = str(SAMPLE / "model.onnx")
    words = ("compare", model, model, "--eval", str(SAMPLE / "eval.npz"), "--eval-limit", "100")
    done = modelopt(*words, "--baseline-provider", "cpu", *ON_CPU, *BF16, *FEW, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    first, second = (result["node_providers"] for result in report["results"])
    assert set(first) == {"CPUExecutionProvider"}
    assert "OpenVINOExecutionProvider" in second
    assert report["accuracy"]["tasks"][0]["delta"]["point"] >= -0.02
    (error,) = (score for score in report["accuracy"]["fidelity"] if score["name"] == "max-abs-error")
    assert error["value"] > 0  # bf16 rounds: an exact match would mean that it ran as float32


def test_a_device_that_is_not_there_is_no_silent_fallback(tmp_path: Path) -> None:
    done = modelopt(
        "bench",
        str(SAMPLE / "model.onnx"),
        "--provider",
        "openvino",
        "--provider-option",
        "device_type=GPU",
        *FEW,
        cwd=tmp_path,
    )
    assert done.code == 4, done.err
    assert done.out == b""
