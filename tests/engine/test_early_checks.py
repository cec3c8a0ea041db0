"""A mistake in a flag is refused before the model is read: reading a large one takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelopt.core.errors import InputError
from modelopt.engine import optimize
from modelopt.engine.optimize import Request
from modelopt.recipe.recipe import Recipe
from modelopt.search import candidates
from tests.command_line import CALIB, EVAL, modelopt


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["quantize", "--calib", CALIB, "--metric", "nonsense"], "unknown metric 'nonsense'"),
        (["quantize", "--calib", "nope.npz"], "no such file or folder: nope.npz"),
        (["quantize", "--calib", "nope.py:f"], "no such file or folder: nope.py"),
        (["quantize", "--calib", CALIB, "--exclude", "re:("], "'re:(' is not a regular expression"),
        (["quantize", "--calib", CALIB, "--preprocess", "foo=1"], "unknown preprocessing 'foo'"),
        (["fuse", "--eval", EVAL, "--labels", "nope.csv"], "no such file or folder: nope.csv"),
        (["fuse", "--provider", "nope"], "unknown provider 'nope'"),
        (["prune", "--no-verify", "--no-bench", "--max-drop", "1%"], "--max-drop needs data to measure accuracy on"),
        (["fold", "--freeze-dim", "n"], "'n' is not the size of a dimension"),
        (["fold", "--input-shape", "x"], "'x' is not the shape of an input"),
        (["fold", "--opset", "999"], "there is no opset 999"),
        (["prune", "--exclude", "re:("], "'re:(' is not a regular expression"),
        (["bench", "--provider", "nope"], "unknown provider 'nope'"),
        (["bench", "--data", "nope.npz"], "no such file or folder: nope.npz"),
    ],
)
def test_a_mistake_in_a_flag_costs_no_load(tmp_path: Path, arguments: list[str | Path], fact: str) -> None:
    """The file is no model, which is what its reader would say first."""
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    command, *flags = (each.resolve() if isinstance(each, Path) else each for each in arguments)
    modelopt(command, "broken.onnx", *flags, cwd=tmp_path).refused(2, fact)


def test_a_search_refuses_a_bad_output_as_a_run_does(tmp_path: Path) -> None:
    """Both begin with `opening.opened`: the path is refused before the model is read."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    request = Request(recipe=Recipe(steps=()), model=path, output=path)
    with pytest.raises(InputError, match="is the input"):
        optimize.run(request)
    with pytest.raises(InputError, match="is the input"), candidates.opened(request):
        pytest.fail("it was opened")
