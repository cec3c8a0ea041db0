"""The gate's checks of element types and of what tensors hold."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from modelopt.core.errors import InputError
from tests.helpers import big_model, model_of
from tests.io_tools import adding, load, model_file, weight_of

# Element types


def _typed(number: int, place: str) -> onnx.ModelProto:
    """A model that states the element type `number` in one place."""
    model = big_model()
    inner = model.graph.node[1].attribute[0].g
    scope = inner if place.startswith("body") else model.graph
    kind = place.split()[-1]
    if kind in {"input", "output", "value_info"}:
        values = getattr(scope, kind)
        value = values[0] if values else values.add(name="v")
        value.type.tensor_type.elem_type = number
    elif kind == "sequence":
        tensor = model.graph.value_info.add(name="v").type.sequence_type.elem_type.tensor_type
        tensor.elem_type = number
    elif kind == "sparse":
        model.graph.input[0].type.sparse_tensor_type.elem_type = number
    elif kind == "function":
        model.functions[0].value_info.add(name="v").type.tensor_type.elem_type = number
    elif kind == "initializer":
        model.graph.initializer[0].data_type = number
    elif kind == "type":
        type_ = helper.make_tensor_type_proto(number, [])
        model.graph.node.append(helper.make_node("Optional", [], ["o"], type=type_))
    else:
        node = helper.make_node("Cast" if kind == "to" else "EyeLike", ["x"], ["o"])
        node.attribute.append(helper.make_attribute(kind, number))
        inner.node.append(node)
    return model


_PLACES = ("input", "output", "value_info", "body output", "body value_info", "sequence", "sparse", "initializer")


@pytest.mark.parametrize("number", [0, 99, -5])
@pytest.mark.parametrize("place", [*_PLACES, "type", "body to", "body dtype"])
def test_an_element_type_that_is_none_is_refused(tmp_path: Path, place: str, number: int) -> None:
    with pytest.raises(InputError, match="is not a valid model") as caught:
        load(model_file(tmp_path, _typed(number, place)))
    assert "type" in str(caught.value.note)
    assert caught.value.hint is not None or place == "initializer"


def test_a_function_may_leave_an_element_type_open(tmp_path: Path) -> None:
    assert load(model_file(tmp_path, _typed(TensorProto.UNDEFINED, "function"))).size_bytes > 0
    with pytest.raises(InputError, match="is not a valid model") as caught:
        load(model_file(tmp_path, _typed(99, "function")))
    assert "the value 'v' of the function" in str(caught.value.note)


def test_another_domain_may_call_anything_a_dtype(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Mine", ["x"], ["y"], domain="acme", dtype=99)])
    model.opset_import.add(domain="acme", version=1)
    assert load(model_file(tmp_path, model)).size_bytes > 0


# Tensors


def _constant(tensor: TensorProto) -> onnx.ModelProto:
    return model_of([helper.make_node("Constant", [], ["y"], value=tensor)])


@pytest.mark.parametrize("place", [adding, _constant])
@pytest.mark.parametrize(
    ("tensor", "note"),
    [
        (TensorProto(name="w", data_type=1, dims=[-2], float_data=[1.0]), "has a negative dimension"),
        (TensorProto(name="w", data_type=1, dims=[-50, -50], raw_data=bytes(10_000)), "has a negative dimension"),
        (TensorProto(name="w", data_type=99, dims=[2], raw_data=bytes(8)), "has no known type"),
        (TensorProto(name="w", data_type=0, dims=[500], raw_data=bytes(2000)), "has no known type"),
        (TensorProto(name="w", dims=[2], raw_data=bytes(8)), "has no known type"),
        (
            TensorProto(name="w", data_type=1, dims=[3], raw_data=bytes(8)),
            "holds 8 bytes where its shape and type need 12",
        ),
        (TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2]), "holds 2 values where its .* need 3"),
        (TensorProto(name="w", data_type=1, dims=[3], int32_data=[1, 2, 3]), "holds 0 values where its .* need 3"),
        (TensorProto(name="w", data_type=14, dims=[3], float_data=[1, 2, 3]), "holds 3 values where its .* need 6"),
        (TensorProto(name="w", data_type=22, dims=[3], raw_data=b"1"), "holds 1 bytes where its .* need 2"),
        (TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]), "holds 1 strings where its .* need 2"),
        (TensorProto(name="w", data_type=1, dims=[2**62, 2**62]), "holds 0 values where"),
        (TensorProto(name="w", data_type=1, dims=[1] * 65, float_data=[1]), "has 65 dimensions, and numpy takes 64"),
        (TensorProto(name="w", data_type=1, dims=[0, 2**40, 2**40]), "has dimensions that no tensor can have"),
    ],
)
def test_tensors_hold_what_they_declare(tmp_path: Path, tensor: TensorProto, note: str, place: object) -> None:
    assert callable(place)
    with pytest.raises(InputError, match="is not a valid model") as caught:
        load(model_file(tmp_path, place(tensor)))
    assert caught.value.note is not None
    assert caught.value.note.startswith("the tensor 'w' ")
    with pytest.raises(ValueError, match=note):
        raise ValueError(caught.value.note)


def test_large_tensors_hold_what_they_declare(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[1001], raw_data=bytes(4000))
    with pytest.raises(InputError, match="'w' holds 4000 bytes where its shape and type need 4004"):
        load(model_file(tmp_path, adding(tensor)))


@pytest.mark.parametrize("number", sorted(set(TensorProto.DataType.values()) - {0, 8, 24}))
@pytest.mark.parametrize("count", [0, 1, 5])
def test_typed_fields_of_every_type_are_counted_right(tmp_path: Path, number: int, count: int) -> None:
    tensor = helper.make_tensor("w", number, [count], [1.0] * count)
    assert weight_of(load(model_file(tmp_path, adding(tensor)))).shape == (count,)


def test_a_model_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a valid model") as caught:
        load(model_file(tmp_path, model_of([helper.make_node("Relu", ["nowhere"], ["y"])])))
    assert caught.value.note == "y (Relu): uses 'nowhere' before it exists"


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(big_model().SerializeToString().replace(b"scalar", b"sc\xff\xfear"))
    with pytest.raises(InputError, match="not a valid ONNX model") as caught:
        load(path)
    assert caught.value.note == "'onnx.TensorProto.name' is not UTF-8"
