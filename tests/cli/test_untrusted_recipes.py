"""A recipe of a stranger: it runs no code, reads no file elsewhere, and is refused at once however it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.command_line import CALIB, MLP, QUICK, modelopt

_EVIL = """open("it_ran", "a").write("top ")

def data():
    import numpy as np

    for _ in range(8):
        yield {"features": np.zeros((1, 64), "f")}

def score(outputs, label):
    return 1.0
"""
_CODE = {
    "calibration": "calibration: {data: 'dl/evil.py:data'}\nsteps: [quantize-static]\n",
    "evaluation": "evaluate: {data: 'dl/evil.py:data'}\nsteps: [prune-magnitude]\n",
    "metric": "evaluate: {data: x.npz, metric: 'dl/evil.py:score'}\nsteps: [prune-magnitude]\n",
    "gate": "gates: {metric: 'dl/evil.py:score', max-drop: 0.1}\nsteps: [prune-magnitude]\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory: a model, data, and a file of code."""
    (tmp_path / "model.onnx").write_bytes(MLP.read_bytes())
    (tmp_path / "x.npz").write_bytes(CALIB.read_bytes())
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl" / "evil.py").write_text(_EVIL)
    return tmp_path


def _write(folder: Path, text: str, name: str = "r.yaml") -> str:
    (folder / name).write_text(f"version: 1\n{text}")
    return name


@pytest.mark.parametrize("name", _CODE)
def test_code_in_a_recipe_is_refused(folder: Path, name: str) -> None:
    recipe = _write(folder, _CODE[name])
    ran = modelopt("run", recipe, "model.onnx", "-o", "o.onnx", *QUICK, cwd=folder)
    ran.refused(2, "r.yaml", "names code to run: dl/evil.py:", "hint: --allow-code")
    assert not (folder / "it_ran").exists()


def test_code_that_is_allowed_or_named_on_the_command_line_runs(folder: Path) -> None:
    recipe = _write(folder, _CODE["calibration"])
    words = ("run", recipe, "model.onnx", "-o", "o.onnx", *QUICK)
    modelopt(*words, "--allow-code", cwd=folder).succeeded()
    assert (folder / "it_ran").exists()
    (folder / "it_ran").unlink()
    modelopt(*words, "--calib", "x.npz", cwd=folder).succeeded()  # the recipe's code is replaced: it does not run
    assert not (folder / "it_ran").exists()
    modelopt(*words, "--calib", "dl/evil.py:data", cwd=folder).succeeded()
    assert (folder / "it_ran").exists()


def test_paths_of_a_recipe_are_beside_it(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "calib.npz").write_bytes(CALIB.read_bytes())
    recipe = _write(folder, "calibration: {data: calib.npz}\nsteps: [quantize-static]\n", "sub/r.yaml")
    modelopt("run", recipe, "model.onnx", "-o", "a.onnx", *QUICK, cwd=folder).succeeded()
    printed = modelopt("run", recipe, "--print-recipe", cwd=folder).succeeded().out.decode()
    assert printed.startswith("# Paths are relative to this file.\nversion: 1\n")
    assert "data: sub/calib.npz\n" in printed
    (folder / "printed.yaml").write_text(printed)
    modelopt("run", "printed.yaml", "model.onnx", "-o", "b.onnx", *QUICK, cwd=folder).succeeded()
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


@pytest.mark.parametrize("path", ["../x.npz", "data"])
def test_a_file_elsewhere_is_refused(folder: Path, path: str) -> None:
    (folder / "sub" / "data").mkdir(parents=True)
    (folder / "sub" / "data" / "link.npz").symlink_to(folder / "x.npz")
    recipe = _write(folder, f"calibration: {{data: {path}}}\nsteps: [quantize-static]\n", "sub/r.yaml")
    words = ("run", recipe, "model.onnx", "-o", "o.onnx", *QUICK)
    modelopt(*words, cwd=folder).refused(2, "sub/r.yaml: calibration: data is outside", "hint: --allow-paths")
    modelopt(*words, "--allow-paths", cwd=folder).succeeded()


def test_a_recipe_from_a_pipe_has_the_working_directory(folder: Path) -> None:
    text = b"version: 1\ncalibration: {data: x.npz}\nsteps: [quantize-static]\n"
    modelopt("run", "/dev/stdin", "model.onnx", "-o", "o.onnx", *QUICK, cwd=folder, stdin=text).succeeded()


def test_a_library_of_operators_is_no_key_of_a_recipe(folder: Path) -> None:
    recipe = _write(folder, "steps: []\nop-library: evil.so\n")
    modelopt("run", recipe, "model.onnx", cwd=folder).refused(2, "r.yaml:3: unknown key 'op-library'")
    recipe = _write(folder, "steps: []\nbench: {op-libraries: [evil.so]}\n")
    modelopt("run", recipe, "model.onnx", cwd=folder).refused(2, "unknown field `op-libraries`")


def test_an_expression_without_end_is_refused(folder: Path) -> None:
    from onnx import helper

    from tests.command_line import save, value

    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="a" * 100)
    weights = {"w": np.ones((64, 64), np.float32)}
    save(folder / "named.onnx", [node], [value("x", [1, 64])], [value("y", [1, 64])], weights)
    recipe = _write(folder, "steps:\n- quantize-dynamic: {include: ['re:(a+)+b']}\n")
    ran = modelopt("run", recipe, "named.onnx", "-o", "o.onnx", *QUICK, cwd=folder)
    ran.refused(2, "'re:(a+)+b' takes too long to match names")


@pytest.mark.parametrize("text", ["[" * 100_000, "a: &a [x]\nb: [*a]"])
def test_a_yaml_bomb_is_refused(folder: Path, text: str) -> None:
    modelopt("run", _write(folder, text), "model.onnx", cwd=folder).refused(2, "r.yaml:")


def test_an_override_that_is_a_bomb_is_refused(folder: Path) -> None:
    override = "x: {type: " + "[" * 4000 + "]" * 4000 + "}"
    ran = modelopt("quantize", "model.onnx", "--calib", "x.npz", "--override", override, cwd=folder)
    ran.refused(2, "nested too deeply")
    override = "x: {type: " + "[" * 40_000 + "}"
    ran = modelopt("quantize", "model.onnx", "--calib", "x.npz", "--override", override, cwd=folder)
    ran.refused(2, "--override of 40011 characters")
