"""Models to bytes and back: nothing is lost, and what has no bytes is an InputError."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.errors import InputError
from modelopt.io import protobuf_wire, serialize, tensor_slots
from tests.helpers import big_model, body, info, model_of, rich_model, weight
from tests.runtime_tools import printed_under_hash_seeds

# Models


def test_nothing_is_lost() -> None:
    original = rich_model()

    again = onnx.ModelProto.FromString(serialize.to_bytes(serialize.from_bytes(original.SerializeToString())))

    for message in (original, again):  # the order of these says nothing
        for node in message.graph.node:
            node.attribute.sort(key=lambda attribute: attribute.name)
    assert again == original


def test_the_types_of_initializers_are_said_once() -> None:
    original = model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 4)])
    original.graph.value_info.append(info("w", (4,)))

    again = onnx.ModelProto.FromString(serialize.to_bytes(serialize.from_bytes(original.SerializeToString())))

    assert not again.graph.value_info
    assert again.graph.initializer == original.graph.initializer


def _typed(dtype: int, values: list[float], dims: list[int]) -> TensorProto:
    return helper.make_tensor("w", dtype, dims, values)


NUMBER_TYPES = [
    (name, number) for name, number in TensorProto.DataType.items() if name not in {"UNDEFINED", "STRING", "FLOAT8E8M0"}
]


@pytest.mark.parametrize("count", [0, 1, 3, 5000], ids=lambda n: f"{n} values")
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(("name", "number"), NUMBER_TYPES)
def test_every_number_type_keeps_its_bytes(name: str, number: int, raw: bool, count: int) -> None:
    dtype = ir.DataType(number)
    zeros_and_ones = np.arange(count) % 2
    array = zeros_and_ones.astype(dtype.numpy())
    if raw:
        tensor = ir.serde.serialize_tensor(ir.Tensor(array, dtype=dtype, name="w"))
    else:
        tensor = _typed(number, [float(v) for v in zeros_and_ones], [count])
    model = serialize.from_bytes(model_of([], outputs=["x"], initializers=[tensor]).SerializeToString())

    value = model.graph.initializers["w"].const_value
    assert value is not None
    assert value.dtype == dtype
    assert value.numpy().tobytes() == array.tobytes()
    (again,) = onnx.ModelProto.FromString(serialize.to_bytes(model)).graph.initializer
    assert ir.from_proto(again).tobytes() == value.tobytes()
    assert list(again.dims) == [count]


def test_scalars_stay_scalars() -> None:
    scalars = [numpy_helper.from_array(np.array(2.5, np.float32), "s"), _typed(TensorProto.INT64, [3], [])]
    model = serialize.from_bytes(model_of([], outputs=["x"], initializers=scalars).SerializeToString())

    assert [value.const_value.numpy().shape for value in model.graph.initializers.values() if value.const_value] == [
        (),
        (),
    ]
    assert [list(t.dims) for t in onnx.ModelProto.FromString(serialize.to_bytes(model)).graph.initializer] == [[], []]


def test_strings_stay_strings() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[3], string_data=[b"a" * 3000, b"", b"\xff"])
    model = model_of([], outputs=["x"], initializers=[tensor])

    assert onnx.ModelProto.FromString(serialize.to_bytes(serialize.from_bytes(model.SerializeToString()))) == model


def test_strings_as_raw_bytes_are_refused() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2000], raw_data=b"a" * 2000)
    with pytest.raises(InputError, match="'w' holds strings as raw bytes"):
        serialize.from_bytes(model_of([], outputs=["x"], initializers=[tensor]).SerializeToString())


def test_dims_that_do_not_fit_the_bytes_are_refused() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 500], raw_data=bytes(5996))
    with pytest.raises(InputError, match="'w' holds 5996 bytes where its shape and type need 6000"):
        serialize.from_bytes(model_of([], outputs=["x"], initializers=[tensor]).SerializeToString())


def test_large_tensors_are_views_of_the_bytes() -> None:
    data = big_model().SerializeToString()

    value = serialize.from_bytes(data).graph.initializers["w"].const_value

    assert value is not None
    array = value.numpy()
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable
    assert np.shares_memory(np.frombuffer(serialize.tensor_bytes(value), np.uint8), array)  # and go out as they came in


def test_arrays_of_any_layout_are_written_in_order() -> None:
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    half = np.arange(3, dtype=ml_dtypes.bfloat16)

    assert bytes(serialize.tensor_bytes(ir.Tensor(columns))) == np.arange(6, dtype="<f4").tobytes()
    assert bytes(serialize.tensor_bytes(ir.Tensor(half, dtype=ir.DataType.BFLOAT16))) == half.tobytes()


def _contents(model: ir.Model) -> list[int]:
    return [id(slot.tensor) for slot in tensor_slots.slots(model)]


def test_serializing_leaves_the_model_alone() -> None:
    model = serialize.from_bytes(rich_model().SerializeToString())
    before = _contents(model)

    stream = serialize.chunks(model)
    next(stream)
    stream.close()  # type: ignore[attr-defined] # the consumer loses interest
    assert _contents(model) == before

    serialize.to_bytes(model)
    assert _contents(model) == before


def test_a_failure_while_serializing_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_model: ir.Model) -> onnx.ModelProto:
        raise MemoryError

    model = serialize.from_bytes(big_model().SerializeToString())
    before = _contents(model)
    monkeypatch.setattr(ir, "to_proto", fail)

    with pytest.raises(MemoryError):
        serialize.to_bytes(model)
    with pytest.raises(MemoryError), tensor_slots.externalized(model, "data", 1024):
        serialize.to_bytes(model)

    assert _contents(model) == before


def test_a_renamed_initializer_takes_its_new_name_along() -> None:
    model = serialize.from_bytes(
        model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 4000)]).SerializeToString()
    )
    model.graph.initializers["w"].name = "renamed"

    again = onnx.ModelProto.FromString(serialize.to_bytes(model)).graph

    assert [tensor.name for tensor in again.initializer] == ["renamed"]
    assert list(again.node[0].input) == ["x", "renamed"]


def test_without_weights_the_rest_is_there() -> None:
    light = serialize.to_bytes(serialize.from_bytes(big_model().SerializeToString()), weights=False)

    assert len(light) < 3000
    skeleton = serialize.skeleton_from_bytes(light)
    assert [node.op_type for node in skeleton.graph] == ["Constant", "If", "F", "Add", "Add"]
    assert skeleton.graph.initializers["w"].shape == ir.Shape([600])


def test_the_same_model_gives_the_same_bytes_in_any_process() -> None:
    code = (
        "import hashlib; from modelopt.io import serialize; from tests.helpers import rich_model; "
        "data = serialize.to_bytes(serialize.from_bytes(rich_model().SerializeToString(deterministic=True))); "
        "print(hashlib.sha256(data).hexdigest())"
    )
    digests = set(printed_under_hash_seeds(["-c", code], ("1", "2", "3")))
    assert len(digests) == 1


def test_nested_value_info_of_initializers_goes_too() -> None:
    inner = body([helper.make_node("Add", ["k", "k"], ["o"])], ["o"], initializers=[weight("k", 4)])
    loop = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function("local", "F", ["x"], ["y"], [loop], [helper.make_opsetid("", 18)])
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="local")], functions=[function], domains=["local"])

    again = onnx.ModelProto.FromString(serialize.to_bytes(serialize.from_bytes(model.SerializeToString())))

    assert again == model


def test_a_long_list_of_numbers_is_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [0, 1, 127, 128, 2**62, -1] * 2000
    node = helper.make_node("Constant", [], ["y"], value_ints=numbers)
    content = model_of([node, helper.make_node("Constant", [], ["f"], value_floats=[0.5] * 9000)]).SerializeToString()
    reads = 0
    read = protobuf_wire._read_varint

    def counted(view: memoryview, position: int, end: int) -> tuple[int, int]:
        nonlocal reads
        reads += 1
        return read(view, position, end)

    monkeypatch.setattr(protobuf_wire, "_read_varint", counted)
    assert protobuf_wire.detach(content, 1024) == (content, [])
    assert reads < 200


@pytest.mark.parametrize(("key", "dtype"), [("value_ints", np.int64), ("value_floats", np.float32)])
def test_a_long_list_in_a_constant_becomes_a_tensor(key: str, dtype: type[np.generic]) -> None:
    """A million numbers in a list of Python take 36 MB, and are made at each load."""
    numbers = np.arange(5000).astype(dtype)
    nodes = [
        helper.make_node("Constant", [], ["long"], **{key: numbers.tolist()}),
        helper.make_node("Constant", [], ["short"], **{key: numbers[:3].tolist()}),
        helper.make_node("Add", ["long", "short"], ["y"]),
    ]
    model = serialize.from_bytes(model_of(nodes).SerializeToString())
    long, short = list(model.graph)[:2]
    assert list(short.attributes) == [key]
    assert list(long.attributes) == ["value"]
    stored = long.attributes["value"].as_tensor()
    assert stored.dtype.numpy() == dtype
    assert np.array_equal(stored.numpy(), numbers)
