"""`--print-recipe` prints what the command does, its search included: `modelopt run` of it gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelopt.core.errors import ExitCode
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import Search
from tests.command_line import CALIB, CNN, EVAL, MLP, Argument, Ran, calibration, installed, modelopt, sample

DATA = ("--calib", CALIB, "--calib-limit", "16")
EVALUATION = ("--eval", EVAL, "--eval-limit", "100")
QUANTIZE = ("quantize", MLP, "--no-bench")
UNCHECKED = ("--no-bench", "--no-verify")
VIT = sample("digits_vit")
STATIC = (
    "quantize",
    VIT,
    "--no-bench",
    "--calib",
    calibration("digits_vit"),
    "--calib-limit",
    "16",
    "--target",
    "x86-vnni",
)
FAST = ("--budget", "0.3", "--warmup", "0.1", "--rounds", "2", "--processes", "1")

COMMANDS: dict[str, tuple[Argument, ...]] = {
    "fold": ("fold", CNN, "--max-growth", "50%", "--max-size", "99%", "--keep", "--no-bench"),
    "fold --opset": ("fold", MLP, "--opset", "20", *UNCHECKED),
    "fuse": ("fuse", CNN, "--no-bench"),
    "fuse --contrib": ("fuse", VIT, "--contrib", *UNCHECKED),
    "fuse --opset": ("fuse", MLP, "--opset", "20", *UNCHECKED),
    "fuse --keep-opset": ("fuse", CNN, "--keep-opset", *UNCHECKED),
    "prune": ("prune", MLP, "--sparsity", "0.3", *EVALUATION, "--max-drop", "9%", "--no-bench"),
    "static": (*QUANTIZE, *DATA, *EVALUATION, "--max-drop", "5%"),
    "static, repaired": (*STATIC, "--metric", "sqnr", "--max-drop", "0.4%"),
    "static --no-search": (*QUANTIZE, *DATA, "--no-search", "--override", "op:Gemm: {type: f32}"),
    "dynamic": (*QUANTIZE, "--mode", "dynamic", *EVALUATION),
    "int8 without data": (*QUANTIZE, "--mode", "int8", "--per-tensor"),
    "fp16": (*QUANTIZE, "--mode", "fp16"),
    "fp16 with data": (*QUANTIZE, "--mode", "fp16", *DATA, "--half-io"),
    "fp32": (*QUANTIZE, "--mode", "fp32"),
    "weights": (*QUANTIZE, "--mode", "weights", "--bits", "2", *DATA, "--metric", "cosine", "--max-drop", "1%"),
    "storage": (*QUANTIZE, "--mode", "storage", *EVALUATION),
}

INSTALLED = {"fold", "fuse", "prune", "static", "fp16 with data", "weights"}
"""They run as the installed command, and so under another hash seed than the run of their recipe."""


def _split(text: str) -> tuple[str, str]:
    """The comments at the beginning, and the recipe."""
    at = text.index("version: ")
    return text[:at], text[at:]


def _both(
    command: tuple[Argument, ...], folder: Path, called: Callable[..., Ran] = modelopt
) -> tuple[bytes, bytes, str]:
    """What the command writes, what its printed recipe writes, and that recipe."""
    printed = modelopt(*command, "--print-recipe", cwd=folder).succeeded()
    text = printed.out.decode()
    assert printed.created == set()
    remarks, lines = _split(text)
    assert dump(parse(text)) == lines
    flags = ("--allow-paths",) if remarks else ()  # the data of these commands have absolute paths
    assert all(flag in remarks for flag in flags)
    (folder / "recipe.yaml").write_text(text)
    keep = ("--keep",) if "--keep" in command else ()
    by_command = called(*command, "-o", "command.onnx", cwd=folder)
    by_recipe = modelopt("run", "recipe.yaml", command[1], "-o", "recipe.onnx", *flags, *keep, cwd=folder)
    assert by_command.code == by_recipe.code == (1 if keep else 0), by_command.err + by_recipe.err
    return (folder / "command.onnx").read_bytes(), (folder / "recipe.onnx").read_bytes(), text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_printed_recipe_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    called = installed if name in INSTALLED else modelopt
    by_command, by_recipe, text = _both(COMMANDS[name], tmp_path, called)
    assert by_command == by_recipe
    command = [str(word) for word in COMMANDS[name]]
    if command[0] == "quantize":
        told = {"--no-search", "fp32"} & {*command}
        assert (parse(text).search is Search.QUANTIZE) == (not told)


@pytest.mark.parametrize("name", ["static, repaired", "weights"])
def test_the_search_is_what_gives_them(name: str, tmp_path: Path) -> None:
    """Without its search, the same recipe breaks the contract: the comparison above compares something."""
    printed = modelopt(*COMMANDS[name], "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert "\nsearch: quantize\n" in printed
    (tmp_path / "without.yaml").write_text(printed.replace("search: quantize\n", ""))
    words = ("run", "without.yaml", COMMANDS[name][1], "-o", "x.onnx", "--no-bench", "--allow-paths")
    done = modelopt(*words, cwd=tmp_path)
    done.failed(done.code, "max-drop")
    assert done.code in {ExitCode.GATE_FAILED, ExitCode.INCONCLUSIVE}


def test_keep_if_faster(tmp_path: Path) -> None:
    """Which groups are kept depends on measured speed: the bytes are the same where the same are kept."""
    kept = []
    command = ("fuse", CNN, "--keep-if-faster", *FAST)
    printed = modelopt(*command, "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert parse(printed).search is Search.KEEP_IF_FASTER
    assert "- pipeline: exact\n- pipeline: contrib\nsearch: keep-if-faster\n" in printed
    (tmp_path / "recipe.yaml").write_text(printed)
    for output, words in (("a.onnx", command), ("b.onnx", ("run", "recipe.yaml", CNN))):
        report = json.loads(modelopt(*words, "-o", output, "--json", cwd=tmp_path).succeeded().out)
        assert len(report["trials"]) >= len(parse(printed).contrib_groups())
        kept.append(report["recipe"])
    if kept[0] == kept[1]:
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_keep_if_faster_where_there_is_nothing_to_keep(tmp_path: Path) -> None:
    command = ("fuse", CNN, "--keep-if-faster", "--keep-opset", "--keep", *FAST)
    printed = modelopt(*command, "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert "- pipeline: exact\n  keep-opset: true\n" in printed
    (tmp_path / "recipe.yaml").write_text(printed)
    modelopt(*command, "-o", "a.onnx", cwd=tmp_path).succeeded()
    modelopt("run", "recipe.yaml", CNN, "-o", "b.onnx", cwd=tmp_path).succeeded()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_recipe_that_keeps_what_is_faster_must_measure(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\nsteps:\n- pipeline: contrib\nsearch: keep-if-faster\n")
    modelopt("run", "r.yaml", CNN, "-o", "x.onnx", cwd=tmp_path).refused(2, "without a benchmark", "a section bench")


@pytest.mark.parametrize("name", ["../../x", "a/b", "\x00", ""])
def test_the_name_of_a_recipe_names_no_other_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(MLP.read_bytes())
    recipe = f"version: 1\nname: {json.dumps(name)}\nsteps: []\n"
    (tmp_path / "r.yaml").write_text(recipe)
    done = modelopt("run", "r.yaml", "model.onnx", "--no-bench", "--no-verify", cwd=tmp_path).succeeded()
    (created,) = done.created
    assert "/" not in created
