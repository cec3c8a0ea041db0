"""Commands among others: pipes through a real shell, and make."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest

from tests.command_line import CNN, MLP, calibration, modelopt, sample, shell

VIT, VIT_CALIB = sample("digits_vit"), calibration("digits_vit")


def test_a_pipeline(tmp_path: Path) -> None:
    quick = "--no-bench --no-verify"
    run = shell(
        f"modelopt fold {VIT} -o - {quick} | modelopt fuse - -o - {quick}"
        f" | modelopt quantize - --target x86-vnni --calib {VIT_CALIB} -o out.onnx {quick}",
        tmp_path,
    )
    run.succeeded()
    assert run.out == b""
    assert run.created == {"out.onnx"}
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    text = modelopt("log", "out.onnx", cwd=tmp_path).succeeded().out.decode()
    assert "fold-constants" in text
    assert "quantize-static" in text
    assert "Wrote the model to stdout" in run.err


def test_a_pipeline_stops_at_its_first_error(tmp_path: Path) -> None:
    run = shell("modelopt fold missing.onnx -o - | modelopt fuse - -o out.onnx", tmp_path)
    assert run.code == 2
    assert run.created == set()
    lines = run.err.splitlines()
    assert "modelopt: error: missing.onnx does not exist" in lines
    assert "modelopt: error: <stdin> is empty" in lines
    assert "Traceback" not in run.err


def test_a_model_with_a_data_file_goes_through_a_pipe_and_comes_out_as_one(tmp_path: Path) -> None:
    model, data = tmp_path / "exported.onnx", tmp_path / "exported.onnx.data"
    onnx.save(onnx.load(CNN), model, save_as_external_data=True, location=data.name, size_threshold=0)
    run = shell("modelopt fold exported.onnx -o - --no-bench | modelopt fuse - -o out.onnx --no-bench", tmp_path)
    run.succeeded()
    assert run.created == {"out.onnx"}
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)

    told = modelopt("fuse", model.name, "-o", "two.onnx", "--external-data", "always", "--no-bench", cwd=tmp_path)
    (written,) = told.succeeded().created - {"two.onnx"}
    assert (written.startswith("two.onnx."), written.endswith(".data")) == (True, True)
    refused = modelopt("fuse", model.name, "-o", "-", "--external-data", "always", "--no-bench", cwd=tmp_path)
    refused.refused(3, "a data file does not fit through a pipe", "give -o a file name")


def test_a_report_beside_a_model_on_stdout(tmp_path: Path) -> None:
    run = shell(f"modelopt fuse {CNN} -o - --report r.json --no-bench > out.onnx", tmp_path).succeeded()
    assert run.created == {"r.json", "out.onnx"}
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_head(tmp_path: Path) -> None:
    run = shell(f"modelopt inspect {CNN} | head -1", tmp_path)
    assert len(run.out.splitlines()) == 1
    assert "Traceback" not in run.err
    assert "Broken" not in run.err


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project that includes our rules."""
    if shutil.which("make", path="/usr/bin:/bin") is None:
        pytest.skip("make is not installed")
    shutil.copy(CNN, tmp_path / "cnn.onnx")
    shutil.copy(MLP, tmp_path / "mlp.onnx")
    shutil.copy(calibration("digits_cnn"), tmp_path / "calib.npz")
    (tmp_path / "Makefile").write_text(
        "all: cnn.int8.onnx mlp.folded.onnx\n"
        "MODELOPT_CALIB := calib.npz\n"
        "MODELOPT_FLAGS := --no-bench --no-verify\n"
        "include modelopt.mk\n"
        "modelopt.mk: ; modelopt makefile > $@\n"
    )
    for path in tmp_path.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path


def made(project: Path) -> list[str]:
    """The models that make makes now."""
    run = shell("make", project).succeeded()
    return [line.split()[-1] for line in run.out.decode().splitlines() if " -o " in line]


def test_make_rebuilds_only_what_changed(project: Path) -> None:
    assert made(project) == ["cnn.int8.onnx", "mlp.folded.onnx"]
    assert made(project) == []
    os.utime(project / "calib.npz")
    assert made(project) == ["cnn.int8.onnx"]
    os.utime(project / "mlp.onnx")
    assert made(project) == ["mlp.folded.onnx"]
    assert made(project) == []


def test_make_stops_and_leaves_nothing_where_a_rule_fails(project: Path) -> None:
    (project / "cnn.onnx").write_bytes(b"not a model")
    run = shell("make", project)
    assert run.code == 2
    assert run.err.count("modelopt: error: ") == 1
    assert not (project / "cnn.int8.onnx").exists()


@pytest.mark.parametrize(
    ("target", "flags"),
    [("cnn.fused.onnx", ""), ("mlp.pruned.onnx", "--sparsity 0.2"), ("cnn.optimized.onnx", "")],
)
def test_the_other_rules(project: Path, target: str, flags: str) -> None:
    (project / "recipe.yaml").write_text("version: 1\nsteps:\n  - fuse-conv-bn\n")
    command = f"make {target} MODELOPT_FLAGS='--no-bench --no-verify {flags}' MODELOPT_RECIPE=recipe.yaml"
    run = shell(command, project).succeeded()
    assert target in run.created
