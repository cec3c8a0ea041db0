"""A model of few bytes may declare inputs of a gigabyte: none are made for it, and what follows is said."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from modelopt.verification.fitting import MAX_VALUES
from tests.command_line import modelopt

TOO_LARGE = f"they would have {2 * MAX_VALUES:,} values, and at most {MAX_VALUES:,} are made for a model of its size"


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{2 * MAX_VALUES}] x) => (float[1] y) {{ i = Identity (x) y = ReduceSum (i) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    return tmp_path


def test_what_exact_passes_make_of_it_is_not_verified(folder: Path) -> None:
    run = modelopt("fuse", "m.onnx", "-o", "x.onnx", cwd=folder).succeeded()
    assert "NOT VERIFIED" in run.err
    assert TOO_LARGE in " ".join(run.err.split())
    assert (folder / "x.onnx").exists()


@pytest.mark.parametrize(
    "words",
    [("bench", "m.onnx"), ("quantize", "m.onnx", "--calib", "random", "-o", "x.onnx"), ("compare", "m.onnx", "m.onnx")],
)
def test_what_must_run_it_is_refused(folder: Path, words: tuple[str, ...]) -> None:
    run = modelopt(*words, cwd=folder)
    run.failed(2, "the model does not run on random inputs")
    assert TOO_LARGE in run.err
    assert not (folder / "x.onnx").exists()
