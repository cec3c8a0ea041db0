"""No model, data file or cache that is written holds a path of the machine, whatever the commands are given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import CALIB, CNN, EVAL, MLP, Argument, modelopt

SECRET = "s3cret-folder"
"""In the path of the working folder, which is HOME too, of the temporary folder, and of every file that is named."""

_DATA = """import numpy as np

def feeds():
    for i in range(16):
        yield {"features": np.random.default_rng(i).random((1, 64), "f")}, i % 10

def score(outputs, label):
    return float(outputs[0].argmax() == label)
"""

_STATIC = ("--everywhere", "--no-bench", "--no-verify")

COMMANDS: Mapping[str, tuple[Argument, ...]] = {
    "fold": ("fold", "{}/cnn.onnx", "--freeze-dim", "batch=1", "--no-bench", "--no-verify"),
    "fuse": ("fuse", "{}/cnn.onnx", "--external-data", "always", "--dump-dir", "{}/dump", "--no-bench"),
    "prune": ("prune", "{}/model.onnx", "--eval", "{}/eval.npz", "--labels", "{}/labels.txt", "--no-bench"),
    "static": ("quantize", "{}/model.onnx", "--calib", "{}/calib.npz", "--calib-cache", "{}/cache.json", *_STATIC),
    "code": ("quantize", "{}/model.onnx", "--calib", "{}/data.py:feeds", *_STATIC),
    "metric": ("prune", "{}/model.onnx", "--eval", "{}/data.py:feeds", "--metric", "{}/data.py:score", "--no-bench"),
    "gate": (
        *("quantize", "{}/model.onnx", "--calib", "{}/data.py:feeds", "--metric", "{}/data.py:score"),
        *("--max-drop", "100%", "--everywhere", "--no-bench"),
    ),
    "relative": ("quantize", f"{SECRET}/model.onnx", "--calib", f"{SECRET}/calib.npz", *_STATIC),
    "weights": ("quantize", "{}/model.onnx", "--mode", "weights", "--external-data", "always", "--no-bench"),
    "recipe": ("run", "{}/r.yaml", "{}/model.onnx", "--no-bench"),
    "recipe, from elsewhere": ("run", "{}/r.yaml", "{}/model.onnx", "--no-bench"),
    "option of a provider": (
        *("prune", "{}/model.onnx", "--provider-option", "x={}/cache", "--eval", "{}/eval.npz"),
        *("--budget", "1", "--no-verify"),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_written_holds_no_path(tmp_path: Path, name: str) -> None:
    home = tmp_path / f"home-{SECRET}"
    files = home / SECRET
    temporary = home / "tmp"
    for folder in (files, temporary):
        folder.mkdir(parents=True)
    shutil.copy(MLP, files / "model.onnx")
    shutil.copy(CNN, files / "cnn.onnx")
    shutil.copy(CALIB, files / "calib.npz")
    with np.load(EVAL) as arrays:
        np.savez(files / "eval.npz", features=arrays["features"][:64])
        np.savetxt(files / "labels.txt", arrays["label"][:64], "%d")
    (files / "data.py").write_text(_DATA)
    recipe = "version: 1\nsteps: [quantize-static: {everywhere: true}]\n"
    recipe += "calibration: {data: calib.npz}\nevaluate: {data: eval.npz}\n"
    (files / "r.yaml").write_text(recipe)
    before = {path for path in home.rglob("*") if path.is_file()}
    words = [str(word).replace("{}", str(files)) for word in COMMANDS[name]]
    cwd = files.parent if "elsewhere" not in name else temporary
    modelopt(*words, "-o", str(files / "out.onnx"), cwd=cwd, env={"TMPDIR": str(temporary)}).succeeded()
    created = [path for path in home.rglob("*") if path.is_file() and path not in before]
    assert b"modelopt.provenance" in (files / "out.onnx").read_bytes()
    for path in created:
        content = path.read_bytes()
        for private in (SECRET, str(tmp_path)):
            assert private.encode() not in content, f"{path} holds {private}"


def test_the_names_of_files_are_kept(tmp_path: Path) -> None:
    words = ("quantize", MLP, "--calib", CALIB, "-o", "out.onnx", *_STATIC)
    modelopt(*words, cwd=tmp_path).succeeded()
    logged = modelopt("log", "out.onnx", cwd=tmp_path).succeeded().out.decode()
    assert "data: calib.npz" in logged


def test_metadata_of_the_input_stay(tmp_path: Path) -> None:
    model = onnx.load(MLP)
    place = 'File "/home/ada/net.py", line 7, in forward'
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=place)
    onnx.save(model, tmp_path / "model.onnx")
    words = ("prune", "model.onnx", "-o", "out.onnx", "--no-bench", "--no-verify")
    modelopt(*words, cwd=tmp_path).succeeded()
    kept = onnx.load(tmp_path / "out.onnx").graph.node[0].metadata_props
    assert [each.value for each in kept] == [place]


def test_metadata_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    model = onnx.load(MLP)
    entry = '[{"modelopt": "1", "recipe": "", "input_sha256": "", "target": "", "x": '
    model.metadata_props.add(key="modelopt.provenance", value=entry + "[" * 100_000)
    onnx.save(model, tmp_path / "model.onnx")
    modelopt("log", "model.onnx", cwd=tmp_path).refused(2, "provenance cannot be read")
    modelopt("prune", "model.onnx", "-o", "out.onnx", "--no-bench", "--no-verify", cwd=tmp_path).succeeded()
