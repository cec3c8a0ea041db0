"""Whatever a command is told to write, no file of the user is lost, and what is left behind is said."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import CALIB, CNN, EVAL, MLP, QUICK, Argument, listing, modelopt, shell

EXTERNAL = ("--external-data", "always")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, data and a recipe, as files of the user."""
    (tmp_path / "m.onnx").write_bytes(MLP.read_bytes())
    (tmp_path / "c.npz").write_bytes(CALIB.read_bytes())
    (tmp_path / "e.npz").write_bytes(EVAL.read_bytes())
    (tmp_path / "r.yaml").write_text("version: 1\nsteps: [fuse-conv-bn]\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("# Notes\n", encoding="utf-8")
    return tmp_path


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in listing(folder) if (folder / name).is_file()}


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("fuse", "m.onnx", "--eval", "e.npz", "-o", "e.npz"), "the output e.npz is the evaluation data"),
        (("run", "r.yaml", "m.onnx", "-o", "r.yaml"), "the output r.yaml is the recipe"),
        (("fold", "m.onnx", "-o", "x.json", "--report", "x.json"), "the output x.json is the report too"),
        (("prune", "m.onnx", "-o", "x.onnx", "--report", "notes.md"), "that is not a report of modelopt"),
        (("fold", "m.onnx", "-o", "notes.md"), "that is not a model"),
        (
            ("quantize", "m.onnx", "--calib", "c.npz", "--calib-cache", "c.npz", "-o", "x.onnx", "--force"),
            "the calibration cache c.npz is the calibration data",
        ),
        (("fuse", "m.onnx", "-o", "01-x.onnx", "--dump-dir", "."), "has the name of a dump"),
    ],
)
def test_no_output_takes_the_place_of_another_file(folder: Path, arguments: tuple[Argument, ...], fact: str) -> None:
    before = _contents(folder)
    modelopt(*arguments, *QUICK, cwd=folder).refused(2, fact)
    assert _contents(folder) == before


def test_the_data_file_of_the_input_is_never_replaced(folder: Path) -> None:
    modelopt("fold", "m.onnx", "-o", "x.onnx", *EXTERNAL, *QUICK, cwd=folder).succeeded()
    (data,) = folder.glob("x.onnx.*.data")
    before = _contents(folder)
    run = modelopt("fuse", "x.onnx", "-o", data.name, "--force", *QUICK, cwd=folder)
    run.refused(2, f"the output {data.name} is a data file of the input")
    assert _contents(folder) == before


def test_force_replaces_a_file_of_another_kind(folder: Path) -> None:
    run = modelopt("fold", "m.onnx", "-o", "e.npz", "--report", "notes.md", "--force", *QUICK, cwd=folder)
    run.succeeded()
    onnx.load(folder / "e.npz")
    assert "m.onnx" in (folder / "notes.md").read_text(encoding="utf-8")
    again = modelopt("fold", "m.onnx", "-o", "e.npz", "--report", "notes.md", *QUICK, cwd=folder)
    again.succeeded()  # they are a model and a report now


def test_a_copy_that_is_kept_keeps_its_weights(folder: Path) -> None:
    modelopt("fold", "m.onnx", "-o", "x.onnx", *EXTERNAL, *QUICK, cwd=folder).succeeded()
    (data,) = folder.glob("x.onnx.*.data")
    (folder / "x.onnx.bak").write_bytes((folder / "x.onnx").read_bytes())
    flags = ("--report", "x.json", *EXTERNAL, *QUICK)
    run = modelopt("prune", "m.onnx", "--sparsity", "0.5", "-o", "x.onnx", *flags, cwd=folder).succeeded()
    said = f"the old data file {data} stays: x.onnx.bak needs it"
    assert said in " ".join(run.err.split())
    assert said in json.loads((folder / "x.json").read_bytes())["notes"]
    kept, given = onnx.load(folder / "x.onnx.bak"), onnx.load(folder / "m.onnx")
    for one, other in zip(kept.graph.initializer, given.graph.initializer, strict=True):
        assert np.array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))

    (folder / "x.onnx.bak").unlink()
    modelopt("fold", "m.onnx", "-o", "x.onnx", *QUICK, cwd=folder).succeeded()
    assert len(list(folder.glob("x.onnx.*.data"))) == 1  # the one that no model named when x.onnx was replaced


def test_outputs_keep_the_mode_of_what_they_replace(folder: Path) -> None:
    for name in ("x.onnx", "x.json"):
        (folder / name).touch(mode=0o600)
    shell(
        f"umask 022; modelopt fold m.onnx -o x.onnx --report x.json {' '.join((*EXTERNAL, *QUICK))}", folder
    ).succeeded()
    shell(
        f"umask 027; modelopt fold m.onnx -o y.onnx --report y.json {' '.join((*EXTERNAL, *QUICK))}", folder
    ).succeeded()
    modes = {path.name[0]: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("[xy].*")}
    assert modes == {"x": 0o600, "y": 0o640}
    assert len(list(folder.glob("[xy].*"))) == 6


def test_a_report_that_cannot_be_kept_leaves_the_old_model(folder: Path) -> None:
    (folder / "x.onnx").write_bytes(CNN.read_bytes())
    long = f"{'n' * 245}.json"  # it may be a name, but with nothing before it
    run = modelopt("fold", "m.onnx", "-o", "x.onnx", "--report", long, *QUICK, cwd=folder)
    assert run.code in {2, 4}
    assert run.err.startswith("modelopt: error: ")
    assert (folder / "x.onnx").read_bytes() == CNN.read_bytes()
    assert run.created == set()


def test_a_report_of_a_failed_gate_is_kept(folder: Path) -> None:
    flags = ("--max-size", "1%", "--report", "x.json", *QUICK)
    modelopt("fold", "m.onnx", "-o", "x.onnx", *flags, cwd=folder).failed(1, "--max-size", created=["x.json"])
    assert json.loads((folder / "x.json").read_bytes())["written"] is False


def test_standard_output_by_its_device(folder: Path) -> None:
    quiet = " ".join(("-q", *QUICK))
    piped = shell(f"modelopt fold m.onnx -o /dev/stdout {quiet}", folder).succeeded()
    assert piped.out == MLP.read_bytes()
    shell(f"modelopt fold m.onnx -o /dev/stdout {quiet} > x.onnx", folder).succeeded()
    assert (folder / "x.onnx").read_bytes() == MLP.read_bytes()
    shell(f"modelopt fold - -o - {quiet} < m.onnx >> m.onnx", folder).refused(2, "is the input")
    assert (folder / "m.onnx").read_bytes() == MLP.read_bytes()
    shell(f"modelopt fold m.onnx -o >(cat) {quiet}", folder).refused(2, "is not a regular file")
    modelopt("fold", "m.onnx", "-o", "/dev/stdout", "--json", *QUICK, cwd=folder).refused(2, "--json")
