"""The script that prints the table: what it does where there is nothing to measure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

SCRIPT = ROOT / "tests/bench/main_job.py"


def table(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_without_a_folder_it_says_how_it_is_used() -> None:
    done = table()
    assert done.returncode == 1
    assert "main_job.py FOLDER" in done.stderr


def test_a_folder_without_models_is_one_line(tmp_path: Path) -> None:
    done = table(str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"no {tmp_path}/*/model.onnx\n"


def test_a_model_that_fails_is_a_row_and_not_a_ratio_of_one(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "model.onnx").write_bytes(b"not a model")
    shutil.copy(ROOT / "sample_models/digits_mlp/model.onnx", tmp_path / "good" / "model.onnx")
    done = table(str(tmp_path), "fold", "--no-verify", "--no-bench")
    rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert rows[2].startswith("| bad | 2 |")
    assert rows[3].startswith("| good | 0 |")
    assert rows[-1] == "Geometric mean of 1 latency ratios: 1.000; 1 without a report left out"
