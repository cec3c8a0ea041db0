"""Weights in few bits at the command line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from modelopt.recipe.parsing import parse
from tests.command_line import modelopt
from tests.paths import SAMPLE_MODELS

VIT = SAMPLE_MODELS / "digits_vit"


# The command line


@pytest.mark.parametrize(
    ("flags", "most"),
    [
        (["--mode", "weights"], 0.30),
        (["--mode", "weights", "--bits", "8", "--weight-form", "blocked"], 0.40),
        (["--mode", "weights", "--weight-method", "gptq", "--calib", str(VIT / "calib.npz")], 0.30),
        (["--mode", "storage"], 0.40),
    ],
)
def test_a_trained_transformer_keeps_its_accuracy(tmp_path: Path, flags: list[str], most: float) -> None:
    out = tmp_path / "small.onnx"
    contract = [
        "--eval",
        str(VIT / "eval.npz"),
        "--eval-limit",
        "150",
        "--max-drop",
        "1%",
        "--no-bench",
        "--max-size",
        f"{most:.0%}",
    ]
    modelopt("quantize", str(VIT / "model.onnx"), *flags, *contract, "-o", str(out), cwd=tmp_path).succeeded()
    onnx.checker.check_model(str(out))


@pytest.mark.parametrize(
    ("flags", "level"), [([], 4), (["--weight-compute", "int8"], 4), (["--weight-compute", "float32"], 1)]
)
def test_products_compute_in_what_was_asked_for(tmp_path: Path, flags: list[str], level: int) -> None:
    told = ("--mode", "int4", "--no-search", "--no-bench", "--calib", str(VIT / "calib.npz"), *flags)
    done = modelopt("quantize", str(VIT / "model.onnx"), *told, "-o", "x.onnx", cwd=tmp_path).succeeded()
    products = [node for node in onnx.load(tmp_path / "x.onnx").graph.node if node.op_type == "MatMulNBits"]
    attributes = [{each.name: each.i for each in node.attribute} for node in products]
    assert {(each["bits"], each["accuracy_level"]) for each in attributes} == {(4, level)}
    assert "of the calibration samples are held out to compare outputs on" in done.err


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--mode", "int8"], "quantize-dynamic"),
        (["--mode", "int8", "--calib", "data.npz"], "quantize-static"),
        (["--mode", "int4"], "quantize-weights"),
        (["--mode", "int4", "--bits", "4"], "quantize-weights"),
        (["--mode", "weights", "--no-search", "--calib", "data.npz"], "quantize-weights"),
        (["--mode", "weights", "--no-search", "--calib", "random"], "quantize-weights"),
    ],
)
def test_modes_by_the_name_of_their_type(tmp_path: Path, flags: list[str], name: str) -> None:
    printed = modelopt("quantize", str(VIT / "model.onnx"), *flags, "--print-recipe", cwd=tmp_path).succeeded()
    recipe = parse(printed.out.decode())
    assert recipe.passes()[-1].name == name
    assert (recipe.calibration is not None) == ("--calib" in flags)
    assert getattr(recipe.passes()[-1], "bits", 4) == 4


@pytest.mark.parametrize(
    ("flags", "fact"),
    [
        (["--mode", "weights", "--bits", "5"], "5 bits are not possible"),
        (["--mode", "weights", "--weight-method", "gptq"], "gptq needs calibration data"),
        (["--mode", "int4", "--bits", "8"], "--mode int4 has 4 bits, not 8"),
        (["--mode", "int8", "--activation", "u8"], "--activation is not for --mode int8 without --calib"),
        (["--mode", "weights", "--weight-form", "blocked", "--weight-compute", "float32"], "the runtime chooses"),
        (["--mode", "weights", "--table-bits", "3"], "3 bits are not possible"),
        (["--mode", "dynamic", "--table-bits", "4"], "--table-bits is not for --mode dynamic"),
        (["--mode", "weights", "--activation", "u8"], "--activation is not for --mode weights"),
        (["--mode", "storage", "--bits", "4"], "--bits is not for --mode storage"),
        (["--mode", "dynamic", "--block-size", "32"], "--block-size is not for --mode dynamic"),
        (["--mode", "fp16", "--weight-form", "blocked"], "--weight-form is not for --mode fp16"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path: Path, flags: list[str], fact: str) -> None:
    modelopt("quantize", str(VIT / "model.onnx"), *flags, "-o", "m.onnx", cwd=tmp_path).refused(2, fact)
