"""Types at the gate: maps pass where nothing of them is lost, element types and dimensions must exist."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.io import serialize
from tests.helpers import big_model, model_of, weight
from tests.io_tools import load, model_file

# What modelopt would lose


def _map_type() -> onnx.TypeProto:
    return helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))


# Maps


def _with_maps() -> onnx.ModelProto:
    """Map types wherever a type can stand: an output, a value, a function's value, an attribute."""
    zipmap = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_strings=list("abcd"))
    same = helper.make_node("Identity", ["z"], ["same"])
    optional = helper.make_node("Optional", [], ["o"], type=helper.make_sequence_type_proto(_map_type()))
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    function.value_info.add(name="b").type.CopyFrom(helper.make_optional_type_proto(_map_type()))
    call = helper.make_node("F", ["x"], ["y"], domain="local")
    model = model_of([zipmap, same, optional, call], functions=[function], domains=["local", "ai.onnx.ml"])
    strings = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    strings.denotation = "PROBABILITIES"
    model.graph.value_info.add(name="z").type.CopyFrom(helper.make_sequence_type_proto(strings))
    model.graph.output.add(name="same").type.CopyFrom(helper.make_sequence_type_proto(strings))
    return model


def test_map_types_pass_through(tmp_path: Path) -> None:
    model = _with_maps()
    loaded = load(model_file(tmp_path, model)).model
    assert [spec.dtype for spec in graph.signature(loaded).outputs] == ["float32", "seq(map(string,tensor(float)))"]
    written = onnx.ModelProto.FromString(serialize.to_bytes(loaded))
    values = {value.name: value.type for value in (*written.graph.output, *written.graph.value_info)}
    assert values["same"] == model.graph.output[1].type
    assert values["z"] == model.graph.value_info[0].type
    assert written.functions[0].value_info[0].type == model.functions[0].value_info[0].type
    assert written.graph.node[2].attribute[0].tp == model.graph.node[2].attribute[0].tp
    assert b"modelopt:map" not in written.SerializeToString()


@pytest.mark.parametrize(
    ("key", "element", "denotation", "note"),
    [
        (TensorProto.FLOAT, TensorProto.FLOAT, "", "the output 'z' is a map whose keys are no integers or strings"),
        (TensorProto.INT64, 777, "", "the output 'z' has the element type 777, which ONNX does not know"),
        (TensorProto.INT64, TensorProto.FLOAT, "modelopt:map:7:", "the output 'z' has a denotation"),
    ],
)
def test_a_hostile_map_type_is_refused(tmp_path: Path, key: int, element: int, denotation: str, note: str) -> None:
    model = big_model()
    type_ = model.graph.output.add(name="z").type
    type_.CopyFrom(helper.make_sequence_type_proto(_map_type()))
    type_.sequence_type.elem_type.map_type.key_type = key
    type_.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = element
    type_.denotation = denotation
    with pytest.raises(InputError) as caught:
        load(model_file(tmp_path, model))
    assert note in (caught.value.note or "")


# Element types


_NO_TYPES = (0, *range(29, 41), -1, 2**31 - 1, -(2**31))


def _typed(where: str, number: int) -> onnx.ModelProto:
    """A model that names an element type in one place."""
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 4)])
    tensor = weight("k", 4)
    if where in {"input", "output"}:
        getattr(model.graph, where)[0].type.tensor_type.elem_type = number
    elif where == "initializer":
        model.graph.initializer[0].data_type = number
    elif where == "Constant":
        tensor.data_type = number
        model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    elif where in {"Cast", "RandomNormal"}:
        given = {"to": number} if where == "Cast" else {"dtype": number, "shape": [2]}
        model.graph.node.append(helper.make_node(where, ["x"] if where == "Cast" else [], ["k"], **given))
    else:
        type_ = model.graph.value_info.add(name="v").type
        if where == "map":
            type_.map_type.key_type = TensorProto.INT64
            type_.map_type.value_type.tensor_type.elem_type = number
        elif where == "key":
            type_.map_type.key_type = number
            type_.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
        elif where in {"sequence", "optional"}:
            getattr(type_, f"{where}_type").elem_type.tensor_type.elem_type = number
        else:
            getattr(type_, f"{where}_type").elem_type = number
    return model


@pytest.mark.parametrize(
    "where",
    [
        "input",
        "output",
        "tensor",
        "sparse_tensor",
        "sequence",
        "optional",
        "map",
        "key",
        "initializer",
        "Constant",
        "Cast",
        "RandomNormal",
    ],
)
def test_a_type_that_there_is_not_is_refused_wherever_it_stands(tmp_path: Path, where: str) -> None:
    for number in _NO_TYPES:
        if where == "RandomNormal" and not number:
            continue  # it means: the default
        with pytest.raises(InputError):
            load(model_file(tmp_path, _typed(where, number)))


def test_dimensions_that_no_tensor_can_have_are_refused(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[0, 2**62, 2**62], raw_data=b"")
    with pytest.raises(InputError) as caught:
        load(model_file(tmp_path, model))
    assert "has dimensions that no tensor can have" in str(caught.value.note)
