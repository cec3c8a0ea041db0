"""Gates at the command line: what fails, what is kept, and what the exit code says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from modelopt.report import GateOutcome, Report
from tests.command_line import (
    CNN,
    CNN_EVAL,
    EVAL,
    FAST,
    MLP,
    QUICK,
    installed,
    modelopt,
)


def gate(run_code: int, err: str, created: frozenset[str], name: str) -> None:
    assert run_code == 1
    lines = [line for line in err.splitlines() if line.startswith("modelopt: error: ")]
    assert len(lines) == 1
    assert f"--{name}" in lines[0]
    assert "FAILED" in err
    assert "Traceback" not in err
    assert created == set()


@pytest.mark.parametrize(
    ("name", "limit", "flags"),
    [
        ("max-size", "10kB", QUICK),
        ("min-speedup", "100", FAST),
        ("max-drop", "1%", ["--no-bench", "--eval", EVAL, "--sparsity", "0.98"]),
    ],
)
def test_a_gate_that_fails(tmp_path: Path, name: str, limit: str, flags: list[str]) -> None:
    command: list[str | Path] = ["prune", MLP, "-o", "x.onnx", f"--{name}", limit, *flags]
    (tmp_path / "x.onnx").write_bytes(CNN.read_bytes())
    run = modelopt(*command, cwd=tmp_path)
    assert (tmp_path / "x.onnx").read_bytes() == CNN.read_bytes()
    gate(run.code, run.err, run.created, name)
    assert run.out == b""
    assert "nothing was written" in run.err
    assert "--keep" in run.err


def test_a_gate_that_fails_and_keeps(tmp_path: Path) -> None:
    run = installed("prune", MLP, "-o", "x.onnx", "--max-size", "50%", "--keep", *QUICK, cwd=tmp_path)
    assert run.code == 1
    assert run.created == {"x.onnx"}
    assert "x.onnx was written all the same" in run.err
    assert "nothing was written" not in run.err


def test_a_gate_that_fails_as_json(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-size", "50%", *QUICK, "--json", cwd=tmp_path)
    assert run.code == 1
    report = msgspec.json.decode(run.out, type=Report)
    assert not report.written
    assert [each.outcome for each in report.gates] == [GateOutcome.FAILED]
    assert run.created == set()


def test_gates_that_hold(tmp_path: Path) -> None:
    gates = ("--max-size", "100%", "--max-drop", "1%")
    run = modelopt("fuse", CNN, "--eval", CNN_EVAL, "-o", "x.onnx", "--no-bench", *gates, cwd=tmp_path).succeeded()
    assert "FAILED" not in run.err
    assert "ok" in run.err


def test_a_copy_beside_its_original_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "copy.onnx").write_bytes(MLP.read_bytes())
    run = modelopt("compare", MLP, "copy.onnx", *FAST, cwd=tmp_path).succeeded()
    assert f"copy.onnx is {MLP}, byte for byte" in run.out.decode()
