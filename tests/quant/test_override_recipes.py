"""What the user says of single tensors and nodes, in recipes and in the modes of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from modelopt.core.errors import InputError
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static.overrides import Overrides
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from tests.command_line import CALIB, EVAL, MLP, modelopt, sample

VIT = sample("digits_vit")


# Recipes and the command


RECIPE = """version: 1
steps:
- quantize-static:
    everywhere: true
    override:
      b:
        type: u16
      x:
        range: [-2, 6]
"""


def test_a_recipe_holds_overrides() -> None:
    recipe = parse(RECIPE)
    (step,) = recipe.passes()
    assert step == QuantizeStatic(
        everywhere=True, override=Overrides.parse({"b": {"type": "u16"}, "x": {"min": -2, "max": 6}})
    )
    assert parse(dump(recipe)) == recipe
    assert hash(step) == hash(dataclasses.replace(step))
    with pytest.raises(InputError, match=r"recipe:5: the override of 'b' has an unknown key 'typ'") as caught:
        parse(RECIPE.replace("type:", "typ:"))
    assert caught.value.hint == "did you mean 'type'?"


def test_int8_and_half_precision_in_one_model(tmp_path: Path) -> None:
    """One node in half by an override; the same by a recipe of two passes."""
    data = ("--calib", CALIB, "--eval", EVAL, "--eval-limit", "100", "--no-bench")
    nodes = [node for node in onnx.load(MLP).graph.node if node.op_type == "Gemm"]
    half, wide = nodes[1].name, nodes[-1].input[0]
    told = ("--everywhere", "--override", f"{half}: {{type: f16}}", "--override", f"{wide}: {{type: u16}}")
    done = modelopt("quantize", MLP, *data, *told, "-o", "both.onnx", cwd=tmp_path).succeeded()
    assert "Converted to float16 in 1 place and quantized to int8 (static)" in done.err
    printed = modelopt("quantize", MLP, *data, *told, "--print-recipe", cwd=tmp_path).succeeded()
    (tmp_path / "both.yaml").write_bytes(printed.out)
    modelopt("run", "both.yaml", MLP, "-o", "again.onnx", "--allow-paths", cwd=tmp_path).succeeded()
    for file in ("both.onnx", "again.onnx"):
        found = onnx.load(tmp_path / file)
        weights = {init.name: numpy_helper.to_array(init) for init in found.graph.initializer}
        kinds = {str(array.dtype) for array in weights.values()}
        assert {"float16", "int8", "uint16"} <= kinds
        (node,) = [node for node in found.graph.node if node.name == half]
        assert weights[node.input[1]].dtype == np.float16


def test_the_search_keeps_what_was_said(tmp_path: Path) -> None:
    stored = {init.name for init in onnx.load(VIT).graph.initializer}
    wide = next(n.input[0] for n in onnx.load(VIT).graph.node if n.op_type == "MatMul" and n.input[1] in stored)
    flags = ("--calib", VIT.with_name("calib.npz"), "--no-bench", "--max-drop", "50%", "--target", "x86-vnni")
    modelopt("quantize", VIT, *flags, "--override", f"{wide}: {{type: u16}}", "-o", "x.onnx", cwd=tmp_path).succeeded()
    found = onnx.load(tmp_path / "x.onnx").graph
    assert onnx.TensorProto.UINT16 in {init.data_type for init in found.initializer}


@pytest.mark.parametrize("mode", ["dynamic", "weights", "storage", "fp16"])
def test_every_mode_leaves_a_node_in_float(tmp_path: Path, mode: str) -> None:
    first = next(node.name for node in onnx.load(MLP).graph.node if node.op_type == "Gemm")
    flags = ("--mode", mode, "--no-search", "--no-bench", "--override", f"{first}: {{type: f32}}")
    modelopt("quantize", MLP, *flags, "-o", "x.onnx", cwd=tmp_path).succeeded()
    found = onnx.load(tmp_path / "x.onnx").graph
    floats = {
        init.name for init in found.initializer if init.data_type == onnx.TensorProto.FLOAT and len(init.dims) == 2
    }
    assert next(node for node in found.node if node.name == first).input[1] in floats


@pytest.mark.parametrize(
    ("flags", "fact"),
    [
        (["--override", "x: {typ: u16}"], "the override of 'x' has an unknown key 'typ'"),
        (["--override", "x=u16"], "--override 'x=u16' is not NAME: {key: value}"),
        (["--override", "x: {type: [}"], "is not NAME: {key: value}"),
        (["--override", "x: {type: u16}", "--override", "x: {min: 0}"], "--override says 'x' twice"),
        (["--mode", "dynamic", "--override", "x: {type: u16}"], "the override of 'x' is not for --mode dynamic"),
        (["--mode", "fp16", "--override", "x: {type: f16}"], "the override of 'x' is not for --mode fp16"),
        (["--calib", str(CALIB), "--override", "nothing: {type: u16}"], "'nothing' names no tensor and no node"),
        (["--calib", str(CALIB), "--override", "nothing: {type: f16}"], "'nothing' names no node"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, flags: list[str], fact: str) -> None:
    modelopt("quantize", MLP, *flags, "--no-search", "-o", "m.onnx", cwd=tmp_path).refused(2, fact)
