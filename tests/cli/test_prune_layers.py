"""`prune --pattern layer` as a user calls it: what is written, what is said, and one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
import pytest

from modelopt.report import Report
from tests.command_line import CNN, CNN_CALIB, MLP, QUICK, installed, modelopt


def test_a_share_of_the_blocks_goes(tmp_path: Path) -> None:
    flags = ["--pattern", "layer", "--sparsity", "34%", "--json"]
    run = installed(
        "prune", *flags, CNN, "-o", "x.onnx", "--calib", CNN_CALIB, "--calib-limit", "8", *QUICK, cwd=tmp_path
    )
    report = msgspec.json.decode(run.succeeded().out, type=Report)
    step = next(result for result in report.passes if result.step.startswith("prune-layers"))
    assert "importance=influence, repair=True" in step.step
    assert step.facts["blocks_before"] == 3
    assert step.facts["removed"] in {"/3/Add", "/7/Add", "/8/Add"}
    assert step.facts["layers_repaired"]
    assert [node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node].count("Add") == 2
    assert report.output.size_bytes < report.input.size_bytes


def test_the_printed_recipe_does_the_same(tmp_path: Path) -> None:
    command: list[str | Path] = ["prune", "--pattern", "layer", "--sparsity", "0.4", CNN, *QUICK]
    recipe = modelopt(*command, "--print-recipe", cwd=tmp_path).succeeded().out
    assert b"- prune-layers:\n    sparsity: 0.4\n" in recipe
    (tmp_path / "r.yaml").write_bytes(recipe)
    modelopt(*command, "-o", "a.onnx", cwd=tmp_path).succeeded()
    modelopt("run", "r.yaml", CNN, "-o", "b.onnx", cwd=tmp_path).succeeded()
    a, b = (onnx.load(tmp_path / name).graph for name in ("a.onnx", "b.onnx"))
    assert a == b


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([MLP], ["the model has no residual block to remove", "x + f(x)"]),
        (["--sparsity", "25", CNN], ["'25' is not a fraction", "--sparsity 25%"]),
        (["--importance", "influence", CNN], ["--importance influence needs calibration data"]),
        (["--importance", "wanda", CNN], ["--importance wanda is not for --pattern layer", "influence"]),
        (["--align", "8", CNN], ["--align is not for --pattern layer"]),
        (["--exclude", "nothing", CNN], ["'nothing' names no node"]),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, flags: list[str | Path], words: list[str]) -> None:
    modelopt("prune", "--pattern", "layer", *flags, "-o", "x.onnx", *QUICK, cwd=tmp_path).refused(2, *words)
