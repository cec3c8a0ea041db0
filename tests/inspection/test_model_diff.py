"""What two models differ in: each kind of change is found, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.inspection.difference import Change, ChangeKind, ModelDiff
from modelopt.inspection.model_diff import differences
from tests.command_line import CNN, QUICK, modelopt, sample
from tests.io_tools import load


def _model() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y"))
    weight = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], name="gemm", alpha=1.0),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Identity", ["b"], ["y"], name="out"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _diff(folder: Path, change: Callable[[onnx.ModelProto], object]) -> ModelDiff:
    first, second = _model(), _model()
    change(second)
    for name, model in (("a.onnx", first), ("b.onnx", second)):
        (folder / name).write_bytes(model.SerializeToString())
    return differences(load(folder / "a.onnx"), load(folder / "b.onnx"))


def _rename(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = f"new_{node.name}"


def _new_values(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, :3] += 0.5
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))


def _other_activation(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Tanh"


def _without_identity(model: onnx.ModelProto) -> None:
    del model.graph.node[2]
    model.graph.node[1].output[0] = "y"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: None, []),
        (_rename, []),
        (
            lambda model: model.graph.node[0].attribute[0].__setattr__("f", 0.5),
            [Change(what="node", kind=ChangeKind.CHANGED, name="gemm (Gemm)", before="alpha=1", after="alpha=0.5")],
        ),
        (
            _new_values,
            [
                Change(
                    what="initializer",
                    kind=ChangeKind.CHANGED,
                    name="w",
                    before="float32[4, 4]",
                    after="3 of 16 values differ, by at most 0.5",
                )
            ],
        ),
        (
            _other_activation,
            [
                Change(what="node", kind=ChangeKind.REMOVED, name="act (Relu)", before="inputs=(a)"),
                Change(what="node", kind=ChangeKind.ADDED, name="act (Tanh)", after="inputs=(a)"),
            ],
        ),
        (
            lambda model: model.metadata_props.add(key="k", value="v"),
            [Change(what="metadata", kind=ChangeKind.ADDED, name="k", after="v")],
        ),
        (
            lambda model: model.opset_import[0].__setattr__("version", 19),
            [Change(what="opset", kind=ChangeKind.CHANGED, name="ai.onnx", before="20", after="19")],
        ),
        (
            lambda model: model.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 2),
            [
                Change(
                    what="input", kind=ChangeKind.CHANGED, name="x", before="x: float32[1, 4]", after="x: float32[2, 4]"
                )
            ],
        ),
    ],
)
def test_a_change(change: Callable[[onnx.ModelProto], object], expected: list[Change], tmp_path: Path) -> None:
    found = _diff(tmp_path, change)
    assert list(found.changes) == expected
    assert found.is_equal == (not expected)


def test_a_removed_node_and_the_counts(tmp_path: Path) -> None:
    found = _diff(tmp_path, _without_identity)
    assert found.nodes == (3, 2)
    assert [(each.op, each.before, each.after) for each in found.operators] == [("Identity", 1, 0)]
    assert Change(what="node", kind=ChangeKind.REMOVED, name="out (Identity)", before="inputs=(b)") in found.changes


@pytest.mark.parametrize("name", ["digits_cnn", "digits_loop", "digits_vit"])
def test_a_model_and_what_fuse_makes_of_it(name: str, tmp_path: Path) -> None:
    """Pairs of real models, one with bodies: as many nodes go as the counts say."""
    modelopt("fuse", sample(name), "-o", "fused.onnx", *QUICK, cwd=tmp_path).succeeded()
    found = differences(load(sample(name)), load(tmp_path / "fused.onnx"))
    kinds = [change.kind for change in found.changes if change.what == "node"]
    assert kinds.count(ChangeKind.ADDED) - kinds.count(ChangeKind.REMOVED) == found.nodes[1] - found.nodes[0]
    assert differences(load(sample(name)), load(sample(name))).is_equal


def test_the_command(tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    shown = modelopt("diff", CNN, "x.onnx", cwd=tmp_path).succeeded().out.decode()
    assert "BatchNormalization" in shown
    document = json.loads(modelopt("diff", CNN, "x.onnx", "--json", cwd=tmp_path).succeeded().out)
    assert document["schema"] == "modelopt-diff/1"
    assert modelopt("diff", CNN, "x.onnx", "--exit-code", cwd=tmp_path).code == 1
    same = modelopt("diff", CNN, CNN, "--exit-code", cwd=tmp_path).succeeded()
    assert "hold the same model" in same.out.decode()
    modelopt("diff", CNN, "nowhere.onnx", cwd=tmp_path).refused(2, "nowhere.onnx does not exist")
