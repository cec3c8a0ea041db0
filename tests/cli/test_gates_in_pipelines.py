"""Each gate in a shell script and as a target of make: passed, failed, and not decided."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.command_line import EVAL, FAST, MLP, QUICK, modelopt, shell

PASSED, FAILED, OPEN = 0, 1, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a copy without most of its weights, and stored reports with times that nobody measured."""
    made = tmp_path_factory.mktemp("project")
    modelopt("prune", MLP, "--sparsity", "0.98", "-o", "sparse.onnx", *QUICK, cwd=made).succeeded()
    shutil.copy(MLP, made / "model.onnx")
    modelopt("bench", "model.onnx", *FAST, "--processes", "2", "--report", "real.json", cwd=made).succeeded()
    document = json.loads((made / "real.json").read_text())
    (result,) = document["results"]
    for name, values in {"base": [1000, 1002], "slow": [1500, 1502], "wide": [600, 1700]}.items():
        result["samples_ns"] = [[[value, value]] * 2 for value in values * 4]
        result["peaks_bytes"] = [value * 100_000 for value in values * 4]
        result["loads_ns"] = [value * 1000 for value in values * 4]
        (made / f"{name}.json").write_text(json.dumps(document))
    return made


CASES = [
    ("compare model.onnx model.onnx --no-bench --max-size 100%", PASSED),
    ("compare model.onnx model.onnx --no-bench --max-size 50%", FAILED),
    (f"compare model.onnx model.onnx --no-bench --eval {EVAL} --max-drop 1%", PASSED),
    (f"compare model.onnx sparse.onnx --no-bench --eval {EVAL} --max-drop 1%", FAILED),
    (f"compare model.onnx model.onnx --no-bench --eval {EVAL} --eval-limit 8 --max-drop 1%", PASSED),  # with a warning
    (
        f"compare model.onnx model.onnx --no-bench --eval {EVAL} --eval-limit 8 --max-drop 1% --on-inconclusive fail",
        OPEN,
    ),
    (f"compare model.onnx model.onnx {' '.join(FAST)} --min-speedup 0.01", PASSED),
    (f"compare model.onnx model.onnx {' '.join(FAST)} --min-speedup 100", FAILED),
    (f"bench model.onnx {' '.join(FAST)} --max-latency 10s", PASSED),
    (f"bench model.onnx {' '.join(FAST)} --max-latency 1ns", FAILED),
    (f"bench model.onnx {' '.join(FAST)} --processes 1 --max-memory 1GB", OPEN),
    (f"bench model.onnx {' '.join(FAST)} --processes 1 --max-load 1s", OPEN),
    *(
        (f"check {new}.json --baseline base.json --{gate} +5%", code)
        for gate in ("max-latency", "max-memory", "max-load")
        for new, code in (("base", PASSED), ("slow", FAILED), ("wide", OPEN))
    ),
]


@pytest.mark.parametrize(("command", "code"), CASES)
def test_in_a_shell(folder: Path, command: str, code: int) -> None:
    run = shell(f"modelopt {command} || exit $?", folder)
    assert run.code == code, run.err
    assert ("modelopt: error: --" in run.err) == (code != PASSED)
    if "--eval-limit" in command and code == PASSED:
        assert "warning: --max-drop 1.00% is not decided: 8 samples resolve" in run.out.decode()


@pytest.mark.parametrize(("new", "code"), [("base", PASSED), ("slow", FAILED), ("wide", OPEN)])
def test_as_a_target_of_make(folder: Path, new: str, code: int) -> None:
    if shutil.which("make", path="/usr/bin:/bin") is None:
        pytest.skip("make is not installed")
    rules = folder / f"{new}.mk"
    rules.write_text(f"gate:\n\tmodelopt check {new}.json --baseline base.json --max-latency +5%\n")
    run = shell(f"make -f {rules.name} gate", folder)
    found = re.search(r"Error (\d+)", run.err)
    assert (0 if found is None else int(found[1])) == code
