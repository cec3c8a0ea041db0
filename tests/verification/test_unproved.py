"""Models that run on nothing that is made for them, or answer differently each time: what can be claimed of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import modelopt

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'

# It needs 7,000 numbers and as many more as `more` says: no list of lengths holds such a sum.
NEVER = f"""{HEADER}
g (float[batch, length] x, int64[1] more) => (float[n] y) <int64[1] base = {{7000}}> {{
  i = Identity(x)
  size = Add(base, more)
  r = Reshape(i, size)
  y = Relu(r)
}}"""

RANDOM = f"""{HEADER}
g (float[b, 8] x) => (float[b, 8] y) {{
  i = Identity(x)
  n = RandomNormalLike(i)
  y = Add(i, n)
}}"""

PARTLY_RANDOM = f"""{HEADER}
g (float[b, 8] x) => (float[b, 8] y, float[b, 8] z) {{
  i = Identity(x)
  n = RandomNormalLike(i)
  y = Add(i, n)
  z = Relu(i)
}}"""

TRAINING_DROPOUT = f"""{HEADER}
g (float[b, 64] x) => (float[b, 64] y) <float ratio = {{0.5}}, bool train = {{1}}> {{
  i = Identity(x)
  y = Dropout(i, ratio, train)
}}"""

DRAWN = f"""{HEADER}
g (float[b, 8] x) => (int32[b, 16] y) {{
  i = Identity(x)
  y = Multinomial<sample_size: int = 16>(i)
}}"""

ZERO_DIMS = f"""{HEADER}
g (float[0, 3, 0, 0] x) => (float[0, 2, 0, 0] y) <float[2, 3, 1, 1] w = {{1, 2, 3, 4, 5, 6}}> {{
  i = Identity(x)
  y = Conv(i, w)
}}"""

# The first Reshape takes 5 rows only; onnxruntime's optimizer leaves it out, because another one undoes it.
OPTIMIZED_AWAY = f"""{HEADER}
g (float[batch, rows, 4] x) => (float[batch, rows, 3] y)
<int64[1] zero = {{0}}, int64[1] twenty = {{20}}, float[4, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}}> {{
  size = Shape(x)
  batch_size = Gather<axis: int = 0>(size, zero)
  flat = Concat<axis: int = 0>(batch_size, twenty)
  r = Reshape(x, flat)
  s = Reshape(r, size)
  y = MatMul(s, w)
}}"""

COMPILED = """<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[1, 8] x) => (float[1, 8] y) {
  c = com.microsoft.EPContext <embed_mode: int = 1, ep_cache_context: string = "blob", source: string = "QNN"> (x)
  y = Relu(c)
}"""

OPTIMIZING = [("fold",), ("fuse",), ("prune", "--sparsity", "0.5"), ("quantize", "--mode", "dynamic")]
UNSTABLE = "the original's outputs differ between two runs on the same inputs"


@pytest.fixture
def save(tmp_path: Path) -> Path:
    """A folder with each model of this file."""
    named = {"never": NEVER, "random": RANDOM, "partly": PARTLY_RANDOM, "dropout": TRAINING_DROPOUT, "drawn": DRAWN}
    for name, text in {**named, "optimized": OPTIMIZED_AWAY, "zero": ZERO_DIMS, "compiled": COMPILED}.items():
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    return tmp_path


# Nothing runs


def test_exact_passes_write_without_proof_and_the_verdict_says_how_to_give_one(save: Path) -> None:
    run = modelopt("fold", "never.onnx", "-o", "x.onnx", cwd=save)
    assert run.code == 0
    assert "x.onnx" in run.created
    verdict = run.err.splitlines()[0]
    assert verdict.startswith("Rewritten in ")
    assert verdict.endswith("NOT VERIFIED: the original does not run on constructed inputs.")
    assert "speed not measured: the model does not run on random inputs" in verdict
    (hint,) = [line for line in run.err.splitlines() if line.startswith("hint: --eval feed.npz")]
    assert "x: float32[batch, length]; more: int64[1]" in hint


def test_a_feed_that_only_an_optimized_original_takes_shows_no_mistake(save: Path) -> None:
    run = modelopt("fold", "optimized.onnx", "--no-bench", "-o", "x.onnx", cwd=save).succeeded()
    assert "NOT VERIFIED: the original runs on constructed inputs only where the runtime's optimizer" in run.err
    np.savez(save / "five.npz", x=np.ones((1, 5, 4), np.float32))
    proved = modelopt("fold", "optimized.onnx", "--eval", "five.npz", "--no-bench", "-o", "y.onnx", cwd=save)
    assert "Verified the exact passes on 1 real (five.npz)" in proved.succeeded().err


def test_the_hint_is_numpy_that_writes_a_file_which_eval_takes(save: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = modelopt("fold", "never.onnx", "--no-bench", "-o", "x.onnx", cwd=save)
    code = run.err.partition("numpy: ")[2].partition(", with real values")[0]
    monkeypatch.chdir(save)
    exec(code, {"np": np})
    np.savez(save / "feed.npz", **{**np.load(save / "feed.npz"), "x": np.ones((1, 7003), np.float32), "more": [3]})
    proved = modelopt("fold", "never.onnx", "--eval", "feed.npz", "--no-bench", "-o", "y.onnx", cwd=save)
    assert proved.code == 0
    assert "Verified the exact passes on 1 real (feed.npz)" in proved.err


def test_require_verified_fails_where_nothing_could_be_compared(save: Path) -> None:
    run = modelopt("fold", "never.onnx", "--no-bench", "--require-verified", "-o", "x.onnx", cwd=save)
    assert run.code == 1
    assert not run.created
    assert "--require-verified is not met: found the original does not run on constructed inputs" in run.err
    proved = modelopt("fold", "partly.onnx", "--no-bench", "--require-verified", "-o", "x.onnx", cwd=save)
    assert proved.code == 1
    assert f"{UNSTABLE}: 'y' was not compared" in proved.err
    useless = modelopt("fold", "never.onnx", "--no-verify", "--require-verified", "-o", "x.onnx", cwd=save)
    assert useless.code == 2
    assert "--require-verified needs the verification" in useless.err


def test_a_copy_needs_no_proof(save: Path) -> None:
    modelopt("fold", "never.onnx", "--no-bench", "-o", "folded.onnx", cwd=save)
    run = modelopt("fold", "folded.onnx", "--no-bench", "--require-verified", "-o", "x.onnx", cwd=save)
    assert run.code == 0
    assert "NOT VERIFIED" not in run.err
    assert run.err.startswith("Nothing changed: the output is a copy of the input.")


def test_speed_that_cannot_be_measured_meets_no_gate(save: Path) -> None:
    run = modelopt("fold", "never.onnx", "--min-speedup", "0.5", "-o", "x.onnx", cwd=save)
    assert run.code == 1
    assert not run.created
    assert "found speed not measured: the model does not run on random inputs" in run.err
    run = modelopt("fold", "never.onnx", "--max-drop", "1%", "--no-bench", "-o", "x.onnx", cwd=save)
    assert run.code == 1
    assert "found the original does not run on constructed inputs" in run.err


def test_what_changes_the_outputs_is_refused_where_nothing_runs(save: Path) -> None:
    run = modelopt("quantize", "--mode", "fp16", "never.onnx", "--no-bench", "-o", "x.onnx", cwd=save)
    assert run.code == 2
    assert not run.created
    assert "DATA may be feed.npz, written with numpy: np.savez('feed.npz'" in run.err


# Outputs that change from run to run


@pytest.mark.parametrize("name", ["random", "dropout", "drawn"])
def test_a_model_that_differs_from_itself_blames_no_pass(save: Path, name: str) -> None:
    run = modelopt("fold", f"{name}.onnx", "--no-bench", "-o", "x.onnx", cwd=save)
    assert run.code == 0, run.err
    assert f"NOT VERIFIED: {UNSTABLE}." in run.err.splitlines()[0]
    strict = modelopt("fold", f"{name}.onnx", "--no-bench", "--require-verified", "-o", "y.onnx", cwd=save)
    assert strict.code == 1
    assert UNSTABLE in strict.err


def test_outputs_that_stay_are_compared_beside_those_that_move(save: Path) -> None:
    run = modelopt("fold", "partly.onnx", "--no-bench", "-o", "x.onnx", cwd=save)
    assert run.code == 0
    assert "Verified the exact passes" in run.err
    assert f"note: {UNSTABLE}: 'y' was not compared" in run.err


def test_compare_and_quantize_hold_nothing_against_outputs_that_move(save: Path) -> None:
    run = modelopt("compare", "partly.onnx", "partly.onnx", "--no-bench", "--json", cwd=save)
    assert run.code == 0
    accuracy = json.loads(run.out)["accuracy"]
    assert accuracy["unstable"] == ["y"]
    assert [each["output"] for each in accuracy["outputs"]] == ["z"]
    assert f"{UNSTABLE}: 'y' was not compared" in accuracy["notes"]
    np.savez(save / "calib.npz", x=np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    quantized = modelopt("quantize", "random.onnx", "--calib", "calib.npz", "--no-bench", "-o", "x.onnx", cwd=save)
    assert UNSTABLE in quantized.err
    assert "pass" not in quantized.err.partition("error:")[2]


# Refused in one clear line


@pytest.mark.parametrize("command", [*OPTIMIZING, ("bench", "--budget", "1"), ("compare", "compiled.onnx")])
def test_a_compiled_model_is_refused_by_what_it_is(save: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, "compiled.onnx", cwd=save)
    assert run.code == 3
    assert not run.created
    assert run.err.startswith("modelopt: error: compiled.onnx is compiled for QNN, and runs nowhere else\n")
    assert modelopt("inspect", "compiled.onnx", cwd=save).code == 0


@pytest.mark.parametrize("command", [("bench", "--budget", "1"), ("compare", "zero.onnx", "--no-bench")])
def test_sizes_of_zero_are_named_where_they_are_why_nothing_runs(save: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, "zero.onnx", cwd=save)
    assert run.code == 2
    assert "the model declares x: float32[0, 3, 0, 0], which holds no element" in run.err


def test_sizes_of_zero_fold_without_proof_and_take_no_data(save: Path) -> None:
    run = modelopt("fold", "zero.onnx", "--no-bench", "-o", "x.onnx", cwd=save)
    assert run.code == 0
    assert "export it with free dimensions in place of 0" in run.err
    np.savez(save / "x.npz", x=np.ones((4, 3, 8, 8), np.float32))
    refused = modelopt("quantize", "zero.onnx", "--calib", "x.npz", cwd=save)
    assert refused.code == 2
    assert "hint: 0 means what it says: export the model with free dimensions" in refused.err
