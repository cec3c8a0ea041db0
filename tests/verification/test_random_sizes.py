"""Random data get a size that the model runs on where a dimension is free; what runs a model can be its target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.signature import TensorSpec
from modelopt.data.synthetic import is_picture
from modelopt.engine import settings
from modelopt.recipe.recipe import BenchSpec, Recipe
from tests.command_line import modelopt


def _wide_window(path: Path) -> None:
    """A convolution whose window takes 16 values: 8, which is tried first, is too few."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 2, 16)).astype(np.float32), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "rest"])
    graph = helper.make_graph([conv], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("flags", [("--no-search", "--everywhere"), ()])
def test_calibration_on_random_data_finds_a_size(tmp_path: Path, flags: tuple[str, ...]) -> None:
    _wide_window(tmp_path / "m.onnx")
    words = ("--calib", "random", "--calib-limit", "4", "--no-bench", "-o", "x.onnx", *flags)
    modelopt("quantize", "m.onnx", *words, cwd=tmp_path).succeeded()
    onnx.checker.check_model(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        (("n", 3, "h", "w"), True),
        (("n", "h", "w", 1), True),
        ((1, 3, None, None), True),
        (("n", 3, 224, 224), False),
        (("n", 64, "h", "w"), False),
        (("n", 3, "length"), False),
        (None, False),
    ],
)
def test_pictures_are_known_by_their_shape(shape: tuple[int | str | None, ...] | None, picture: bool) -> None:
    assert is_picture(TensorSpec("x", "float32", shape)) is picture


@pytest.mark.parametrize(
    ("target", "provider", "kind"),
    [
        ("auto", "tensorrt", "tensorrt"),
        ("auto", "cuda", "cuda"),
        ("x86-avx2", "cuda", "x86-avx2"),
        ("arm64", "cpu", "arm64"),
    ],
)
def test_the_accelerator_that_runs_a_model_is_its_target(target: str, provider: str, kind: str) -> None:
    recipe = Recipe(steps=(), target=target, bench=BenchSpec(provider=provider))
    assert settings.target_of(recipe).kind.value == kind


def test_a_model_that_runs_on_no_random_input_asks_for_calibration_data(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 2, 1), np.float32), "w")
    half = numpy_helper.from_array(np.array([1, 2, 3919]), "half")
    size = helper.make_node("Add", ["half", "more"], ["size"])  # what is computed no list of lengths holds
    more = numpy_helper.from_array(np.array([0, 0, 4000]), "more")
    reshape = helper.make_node("Reshape", ["x", "size"], ["r"])
    conv = helper.make_node("Conv", ["r", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "rest"])
    graph = helper.make_graph([size, reshape, conv], "g", [x], [y], [weight, half, more])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "m.onnx")
    run = modelopt("quantize", "m.onnx", "--calib", "random", "-o", "x.onnx", cwd=tmp_path)
    assert run.code == 2
    assert "the model does not run on random inputs" in run.err
    assert "hint: give it real ones: --calib DATA" in run.err
