"""A printed recipe does what the command does, and the same bytes come out each time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.command_line import (
    CNN,
    CNN_CALIB,
    EARLY_EXIT,
    QUICK,
    installed,
    modelopt,
)


@pytest.mark.parametrize(
    "command",
    [
        ["fuse", "--max-size", "99%"],
        ["prune", "--sparsity", "0.3", "--scope", "global", "--exclude", "op:Gemm", "--seed", "3"],
        ["quantize", "--calib", CNN_CALIB, "--calib-limit", "16", "--everywhere", "--target", "arm64"],
        ["quantize", "--mode", "dynamic", "--everywhere", "--only", "--per-tensor"],
    ],
    ids=lambda command: " ".join(map(str, command[:3])),
)
def test_a_printed_recipe_does_what_the_command_does(tmp_path: Path, command: list[str]) -> None:
    flags: list[str | Path] = [*command, CNN, "--no-bench"]
    printed = modelopt(*flags, "--print-recipe", cwd=tmp_path).succeeded()
    assert printed.created == set()
    assert printed.err == ""
    (tmp_path / "recipe.yaml").write_bytes(printed.out)
    modelopt(*flags, "-o", "command.onnx", "--no-verify", cwd=tmp_path).succeeded()
    flags = ["--allow-paths"] if "--calib" in command else []  # its path is absolute
    assert ("modelopt run takes it with --allow-paths." in printed.out.decode()) == bool(flags)
    installed("run", "recipe.yaml", CNN, "-o", "recipe.onnx", "--no-verify", *flags, cwd=tmp_path).succeeded()
    assert (tmp_path / "command.onnx").read_bytes() == (tmp_path / "recipe.onnx").read_bytes()


def test_a_printed_recipe_prints_itself(tmp_path: Path) -> None:
    printed = modelopt("fold", CNN, "--max-drop", "1%", "--print-recipe", cwd=tmp_path).succeeded()
    (tmp_path / "recipe.yaml").write_bytes(printed.out)
    assert modelopt("run", "recipe.yaml", "--print-recipe", cwd=tmp_path).succeeded().out == printed.out


def test_the_schema_of_recipes(tmp_path: Path) -> None:
    schema = msgspec.json.decode(modelopt("run", "--schema", cwd=tmp_path).succeeded().out)
    assert schema["required"] == ["version", "steps"]


@pytest.mark.parametrize("command", [["quantize", "--mode", "dynamic", "--everywhere"], ["prune", "--scope", "global"]])
def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path, command: list[str]) -> None:
    outputs = []
    for seed in ("0", "12345"):
        env = {"PYTHONHASHSEED": seed}
        modelopt(*command, EARLY_EXIT, "-o", f"{seed}.onnx", *QUICK, cwd=tmp_path, env=env).succeeded()
        outputs.append((tmp_path / f"{seed}.onnx").read_bytes())
    assert outputs[0] == outputs[1]
