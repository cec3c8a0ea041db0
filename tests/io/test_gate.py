"""What the gate lets in as a model, and what it refuses by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelopt import graph, io
from modelopt.core.errors import InputError, ModeloptError, Refused
from tests.helpers import big_model, body, info, model_of, weight
from tests.io_tools import SAMPLE, load, model_file


def test_a_loaded_model_says_what_it_is(tmp_path: Path) -> None:
    path = model_file(tmp_path, big_model())

    loaded = load(path)

    assert (loaded.path, loaded.shown, loaded.has_external_data) == (path, str(path), False)
    assert loaded.size_bytes == path.stat().st_size
    assert len(loaded.sha256) == 64


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "is empty"),
        (b"hello, world\n" * 9, "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40), "not an ONNX model"),
        (b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(40), "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an ONNX model"),
        (b"\x08\x07", "is not an ONNX model"),
        (np.random.default_rng(1).bytes(5000), "not an ONNX model"),
    ],
    ids=["empty", "text", "png", "zip", "git-lfs pointer", "no graph", "random"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=fact):
        load(path)


def test_a_truncated_model_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = SAMPLE.read_bytes()
    for length in range(1, len(data), len(data) // 150):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            load(path)


def test_mutated_models_load_or_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    original = big_model().SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(400):
        data = bytearray(original)
        for position in rng.integers(0, len(data), size=2):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            loaded = load(path)
            io.write(loaded.model, tmp_path / "again.onnx")
            (tmp_path / "again.onnx").unlink()
        except ModeloptError:
            refused += 1
    assert 20 < refused < 380


def test_a_missing_model_is_named_and_a_near_one_suggested(tmp_path: Path) -> None:
    model_file(tmp_path, big_model(), "resnet.onnx")
    with pytest.raises(InputError, match=r"resnt\.onnx does not exist") as caught:
        load(tmp_path / "resnt.onnx")
    assert caught.value.hint == "did you mean 'resnet.onnx'?"


def test_a_folder_is_refused_and_the_model_in_it_suggested(tmp_path: Path) -> None:
    path = model_file(tmp_path, big_model())
    with pytest.raises(InputError, match="is a directory, not a model") as caught:
        load(tmp_path)
    assert caught.value.hint == f"did you mean '{path}'?"


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="is not a regular file") as caught:
        load(tmp_path / "model.onnx")
    assert caught.value.hint == "use - to read a model from stdin"


def test_an_unreadable_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_file(tmp_path, big_model())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can read anything
    with pytest.raises(InputError, match="cannot be read") as caught:
        load(path)
    assert caught.value.note == "permission denied"


def test_bodies_come_through_the_gate(tmp_path: Path) -> None:
    then = body([helper.make_node("Add", ["x", "k"], ["t"])], ["t"], initializers=[weight("k", 1000)])
    other = body([helper.make_node("Relu", ["x"], ["e"])], ["e"])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    model = model_of([node], outputs=["y"])
    model.graph.input.append(info("c", (), TensorProto.BOOL))
    assert graph.weight_bytes(load(model_file(tmp_path, model)).model) == 4000


def _with_sparse_initializer() -> onnx.ModelProto:
    model = big_model()
    model.graph.sparse_initializer.add().values.name = "s"
    return model


def _with_sparse_initializer_in_a_body() -> onnx.ModelProto:
    model = big_model()
    model.graph.node[1].attribute[0].g.sparse_initializer.add().values.name = "s"
    return model


def _with_training_info() -> onnx.ModelProto:
    model = big_model()
    model.training_info.add().algorithm.name = "t"
    return model


def _with_sparse_attribute() -> onnx.ModelProto:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [2]),
        [4],
    )
    return model_of([helper.make_node("Constant", [], ["y"], sparse_value=sparse)])


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (_with_sparse_initializer(), "holds sparse initializers"),
        (_with_sparse_initializer_in_a_body(), "holds sparse initializers"),
        (_with_training_info(), "holds training information"),
        (_with_sparse_attribute(), "holds a sparse tensor: the attribute 'sparse_value'"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(tmp_path: Path, model: onnx.ModelProto, fact: str) -> None:
    with pytest.raises(Refused, match=fact):
        load(model_file(tmp_path, model))


def test_an_attribute_without_a_type_is_refused(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Elu", ["x"], ["y"], alpha=1.0)])
    model.graph.node[0].attribute[0].ClearField("type")  # onnx_ir drops its value
    with pytest.raises(Refused, match=r"an attribute without a type.*: 'alpha'"):
        load(model_file(tmp_path, model))


def test_an_attribute_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """onnx_ir and onnxruntime take another one of the two."""
    model = model_of([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)])
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(InputError, match="is not a valid model") as caught:
        load(model_file(tmp_path, model))
    assert caught.value.note == "Concat 'y' has the attribute 'axis' twice"


# Nodes


def _with_identities(count: int, where: str) -> onnx.ModelProto:
    """A model with `count` nodes and initializers in one place, and one more node."""
    nodes = [helper.make_node("Identity", [f"i{number}"], [f"i{number + 1}"]) for number in range(count)]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])])
    if where == "graph":
        model.graph.node.extend([helper.make_node("Identity", ["x"], ["i0"]), *nodes[:-1]])
    elif where == "initializers":
        model.graph.initializer.extend(weight(f"w{number}", 1) for number in range(count))
    elif where == "function":
        imports = [helper.make_opsetid("", 21)]
        model.functions.append(helper.make_function("d", "f", ["i0"], [f"i{count}"], nodes, imports))
    else:  # in bodies that are too small to hold a large tensor
        condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        branch = body([helper.make_node("Identity", ["x"], ["b"])], ["b"])
        branches: dict[str, Any] = {"then_branch": branch, "else_branch": branch}
        ifs = [helper.make_node("If", ["c"], [f"i{number}"], **branches) for number in range((count - 1) // 3)]
        model.graph.node.extend([condition, *ifs])
    return model


@pytest.mark.parametrize("where", ["graph", "initializers", "function", "small bodies"])
def test_a_model_with_more_nodes_than_are_accepted_is_refused(tmp_path: Path, where: str) -> None:
    path = model_file(tmp_path, _with_identities(100, where))

    with pytest.raises(Refused, match="more than 99 nodes and initializers") as caught:
        load(path, accepted=io.Accepted(nodes=99))

    assert caught.value.hint == "--max-nodes N accepts N of them"
    load(path, accepted=io.Accepted(nodes=101))
