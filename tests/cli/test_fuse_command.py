"""`modelopt fuse` with operators that only onnxruntime has: what is asked for, what is kept, what goes together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from modelopt.recipe import pipelines
from tests.command_line import CNN, QUICK, modelopt, sample
from tests.runtime_tools import session

VIT = sample("digits_vit")
FAST = ("--budget", "0.3", "--warmup", "0.1", "--rounds", "3")


def operators(path: Path) -> set[str]:
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("flags", [(), ("--portable",)])
def test_by_default_only_standard_operators(flags: tuple[str, ...], tmp_path: Path) -> None:
    modelopt("fuse", VIT, "-o", "out.onnx", *flags, *QUICK, cwd=tmp_path).succeeded()
    assert {node.domain for node in onnx.load(tmp_path / "out.onnx").graph.node} == {""}


def test_contrib(tmp_path: Path) -> None:
    """Attention is fused, verified on onnxruntime, and marked in the report."""
    done = modelopt("fuse", VIT, "-o", "out.onnx", "--contrib", "--no-bench", "--json", cwd=tmp_path).succeeded()
    found = operators(tmp_path / "out.onnx")
    assert {"com.microsoft.Attention", "com.microsoft.BiasGelu"} <= found
    assert "Softmax" not in found
    report = json.loads(done.out)
    assert {one["step"] for one in report["passes"] if one["contrib"]} == set(pipelines.CONTRIB)
    assert report["verification"]["exact_segments"] == 1
    typed = {value.name for value in onnx.load(tmp_path / "out.onnx").graph.value_info}
    assert typed >= {
        node.output[0] for node in onnx.load(tmp_path / "out.onnx").graph.node if node.domain == "com.microsoft"
    }


def test_keep_if_faster(tmp_path: Path) -> None:
    """What is kept is what was measured to be faster; the recipe in the result says the same."""
    done = modelopt(
        "fuse", VIT, "-o", "out.onnx", "--keep-if-faster", *FAST, "--keep", "--json", cwd=tmp_path
    ).succeeded()
    report = json.loads(done.out)
    trials = {trial["group"]: trial for trial in report["trials"]}
    assert list(trials) == list(pipelines.CONTRIB)
    assert trials["fuse-attention"]["rewrites"] >= 3
    for trial in trials.values():
        assert trial["kept"] == (trial["ratio"] is not None and trial["ratio"]["verdict"] == "faster")
    steps = yaml.safe_load(report["recipe"])["steps"]
    assert [step["until-stable"][0] for step in steps[1:]] == [name for name, one in trials.items() if one["kept"]]
    assert ("com.microsoft.Attention" in operators(tmp_path / "out.onnx")) == trials["fuse-attention"]["kept"]
    stored = modelopt("log", "out.onnx", "--json", cwd=tmp_path).succeeded().out.decode()
    assert all((name in stored) == one["kept"] for name, one in trials.items())


def test_keep_if_faster_says_what_it_tried(tmp_path: Path) -> None:
    done = modelopt("fuse", CNN, "-o", "out.onnx", "--keep-if-faster", *FAST, cwd=tmp_path).succeeded()
    assert "tried" in done.err
    assert done.err.count("nothing to do") == len(pipelines.CONTRIB)


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (("--portable", "--contrib"), 2, "exclude each other"),
        (("--portable", "--keep-if-faster"), 2, "exclude each other"),
        (("--contrib", "--keep-if-faster"), 2, "exclude each other"),
        (("--keep-if-faster", "--no-bench"), 2, "without a benchmark"),
        (("--contrib", "--provider", "openvino"), 3, "onnxruntime's own kernels"),
    ],
)
def test_what_does_not_go_together(flags: tuple[str, ...], code: int, word: str, tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "out.onnx", *flags, cwd=tmp_path).refused(code, word)


def test_stdin_is_tried_more_than_once(tmp_path: Path) -> None:
    done = modelopt("fuse", "-", "-o", "out.onnx", "--keep-if-faster", *FAST, cwd=tmp_path, stdin=CNN.read_bytes())
    assert "tried" in done.succeeded().err


def test_passes_say_where_their_operators_run(tmp_path: Path) -> None:
    listed = json.loads(modelopt("passes", "--json", cwd=tmp_path).succeeded().out)["passes"]
    assert {one["name"] for one in listed if one["contrib"]} == {*pipelines.CONTRIB, "quantize-weights"}
    assert "onnxruntime only" in modelopt("passes", "fuse-attention", cwd=tmp_path).succeeded().out.decode()


def test_numbers_are_compared(tmp_path: Path) -> None:
    """The contrib result and the original agree here too, not only in the tool's own eyes."""
    modelopt("fuse", VIT, "-o", "out.onnx", "--contrib", *QUICK, cwd=tmp_path).succeeded()
    sessions = [session(path) for path in (VIT, tmp_path / "out.onnx")]
    given = sessions[0].get_inputs()[0]
    shape = [dim if isinstance(dim, int) else 3 for dim in given.shape]
    feed = {given.name: np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)}
    before, after = (loaded.run(None, feed)[0] for loaded in sessions)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
