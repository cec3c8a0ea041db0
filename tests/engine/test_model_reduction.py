"""`modelopt reduce`: a planted bad node among 600 is found in few runs, with the inputs that show it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.progress import silent
from modelopt.engine.model_reduction import Part, Reducer
from modelopt.io import serialize
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import CNN, modelopt

NODES = 600
CHECK = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = dict(np.load(sys.argv[2]))
sys.exit(any(np.isnan(out).any() for out in session.run(None, feeds)))
"""


def _chain(bad: int, *, loop_at: int | None = None) -> onnx.ModelProto:
    """A chain of additions, in which one node computes the logarithm of a negative number."""
    one = numpy_helper.from_array(np.array([1.0], np.float32), "one")
    minus = numpy_helper.from_array(np.array([-1e6], np.float32), "minus")
    nodes = []
    for number in range(NODES):
        x, y = f"v{number}", f"v{number + 1}"
        if number == bad:
            nodes.append(helper.make_node("Sub", [x, "large"], [f"{y}_shifted"]))
            nodes.append(helper.make_node("Log", [f"{y}_shifted"], [y], name="bad"))
        elif number == loop_at:
            inner = helper.make_graph(
                [helper.make_node("Add", [x, "one"], ["inner"])],
                "body",
                [],
                [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
            )
            nodes.append(helper.make_node("If", ["yes"], [y], then_branch=inner, else_branch=inner))
        else:
            nodes.append(helper.make_node("Add", [x, "one"], [y], name=f"add{number}"))
    stored = [one, minus, numpy_helper.from_array(np.array([1e6], np.float32), "large")]
    stored += [numpy_helper.from_array(np.ones((), bool), "yes")]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("v0", f"v{NODES}")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _fails(model: Path, inputs: Path) -> bool:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds: Mapping[str, np.ndarray] = dict(np.load(inputs))
    return any(np.isnan(out).any() for out in session.run(None, feeds))


def _reduced(proto: onnx.ModelProto, folder: Path) -> tuple[Part, int]:
    runner = WorkerRunner()
    try:
        model = serialize.from_bytes(proto.SerializeToString())
        feeds = {"v0": np.ones(4, np.float32)}
        reducer = Reducer(model, feeds, _fails, runner, folder, silent)
        return reducer.reduce(), reducer.runs
    finally:
        runner.close()


@pytest.mark.parametrize("bad", [0, 1, 299, 598, 599])
def test_one_bad_node_of_600(bad: int, tmp_path: Path) -> None:
    part, runs = _reduced(_chain(bad), tmp_path)
    assert [node.op_type for node in part.model.graph] == ["Log"]
    assert runs <= 20
    (array,) = part.feeds.values()
    assert (array < 0).all()


def test_two_nodes_that_fail_together(tmp_path: Path) -> None:
    """The check fails where an addition reads what another addition made: neither fails by itself."""

    def fails(model: Path, _inputs: Path) -> bool:
        nodes = {node.name: node for node in onnx.load(model).graph.node}
        return "add300" in nodes and "add310" in nodes

    runner = WorkerRunner()
    try:
        model = serialize.from_bytes(_chain(599).SerializeToString())
        part = Reducer(model, {"v0": np.ones(4, np.float32)}, fails, runner, tmp_path, silent).reduce()
    finally:
        runner.close()
    names = [node.name for node in part.model.graph]
    assert (names[0], names[-1], len(names)) == ("add300", "add310", 11)


def test_a_body_that_reads_an_outer_value(tmp_path: Path) -> None:
    part, _ = _reduced(_chain(300, loop_at=299), tmp_path)
    assert [node.op_type for node in part.model.graph] == ["Log"]


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_chain(123).SerializeToString())
    (tmp_path / "check.py").write_text(CHECK)
    check = f"{shlex.quote(sys.executable)} check.py {{model}} {{inputs}}"
    done = modelopt("reduce", "m.onnx", "--check", check, "--json", cwd=tmp_path).succeeded()
    found = json.loads(done.out)
    assert found["nodes"] == [NODES + 1, 1]
    assert found["operators"] == ["Log"]
    assert found["runs"] <= 20
    assert done.created == {"m.reduced.onnx", "m.reduced.npz"}
    assert _fails(tmp_path / "m.reduced.onnx", tmp_path / "m.reduced.npz")
    assert found["repeat"].endswith("check.py m.reduced.onnx m.reduced.npz")


@pytest.mark.parametrize(
    ("check", "fact"),
    [
        ("true", "the check passes on the whole model"),
        ("no-such-command-anywhere", "the command no-such-command-anywhere cannot be run"),
        ("", "--check names no command"),
        ("'", "--check cannot be read"),
    ],
)
def test_a_mistake(check: str, fact: str, tmp_path: Path) -> None:
    modelopt("reduce", CNN, "--check", check, "-o", "x.onnx", cwd=tmp_path).refused(2, fact)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CNN.read_bytes())
    run = modelopt("reduce", "m.onnx", "--check", "false", "-o", "m.onnx", cwd=tmp_path)
    run.refused(2, "m.onnx is there already")
    (tmp_path / "x.npz").write_text("mine")
    modelopt("reduce", "m.onnx", "--check", "false", "-o", "x.onnx", cwd=tmp_path).refused(2, "x.npz is there already")
    assert (tmp_path / "m.onnx").read_bytes() == CNN.read_bytes()
