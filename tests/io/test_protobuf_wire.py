"""Bytes: models come apart and together again without a change, and bytes that are no model are an InputError."""

from __future__ import annotations

import contextlib

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.errors import InputError, ModeloptError
from modelopt.io import protobuf_wire, serialize, tensor_slots
from tests.helpers import big_model, body, info, model_of, rich_model, weight
from tests.paths import SAMPLE_MODELS
from tests.runtime_tools import printed_under_hash_seeds

SAMPLE = SAMPLE_MODELS / "digits_loop" / "model.onnx"


def _again(data: bytes, threshold: int) -> bytes:
    skeleton, blobs = protobuf_wire.detach(data, threshold)
    parts = [data[blob.offset : blob.offset + blob.length] for blob in blobs]
    return b"".join(protobuf_wire.attach(skeleton, lambda i: len(parts[i]), parts.__getitem__))


# Detach and attach


def test_every_large_tensor_leaves_the_skeleton() -> None:
    data = big_model().SerializeToString()

    skeleton, blobs = protobuf_wire.detach(data, 1024)

    assert [blob.length for blob in blobs] == [1600, 2000, 2400, 2000, 2400, 2400, 1200]
    assert len(skeleton) < 2500
    onnx.ModelProto.FromString(skeleton)  # it parses
    assert data[blobs[0].offset :][:1600] == weight("c", 400, 1).raw_data


def test_a_data_location_that_is_written_out_does_not_hide_the_weights() -> None:
    """onnx.load sets it on each tensor that it reads from external data."""
    proto = big_model()
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
    skeleton, blobs = protobuf_wire.detach(proto.SerializeToString(), 1024)
    assert len(blobs) == 7
    left = onnx.ModelProto.FromString(skeleton).graph.initializer
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in left if tensor.external_data)
    read = serialize.from_bytes(proto.SerializeToString())
    for tensor in proto.graph.initializer:
        np.testing.assert_array_equal(read.graph.initializers[tensor.name].const_value, numpy_helper.to_array(tensor))


@pytest.mark.parametrize(("threshold", "detached"), [(1599, 6), (1600, 6), (1601, 5), (0, 9), (10_000, 0)])
def test_the_threshold_is_exact(threshold: int, detached: int) -> None:
    data = big_model().SerializeToString()

    assert len(protobuf_wire.detach(data, threshold)[1]) == detached
    assert _again(data, threshold) == data


@st.composite
def tensors(draw: st.DrawFn) -> TensorProto:
    tensor = weight(draw(st.text(max_size=5)), draw(st.integers(0, 40)))
    tensor.doc_string = draw(st.sampled_from(["", f"{protobuf_wire.MARKER}0", f"{protobuf_wire.MARKER}0\0"]))
    return tensor


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> onnx.NodeProto:
    node = helper.make_node("Op", ["x"], ["y"], name=draw(st.sampled_from(["n", f"{protobuf_wire.MARKER}7\0"])))
    for kind in draw(st.lists(st.sampled_from(["t", "tensors", "g", "graphs"] if depth else ["t"]), max_size=3)):
        if kind == "t":
            attribute = helper.make_attribute("a", draw(tensors()))
        elif kind == "tensors":
            attribute = helper.make_attribute("a", [draw(tensors()), draw(tensors())])
        else:
            inner = onnx.GraphProto(
                node=[draw(nodes(depth - 1))], initializer=draw(st.lists(tensors(), max_size=3)), name="b"
            )
            attribute = helper.make_attribute("a", inner if kind == "g" else [inner, inner])
        node.attribute.append(attribute)
    return node


@settings(max_examples=150, deadline=None)
@given(st.lists(nodes(), max_size=3), st.lists(tensors(), max_size=4), st.integers(0, 90))
def test_attach_undoes_detach_byte_for_byte(
    some: list[onnx.NodeProto], initializers: list[TensorProto], threshold: int
) -> None:
    function = onnx.FunctionProto(name="f", node=some, attribute_proto=[a for node in some for a in node.attribute])
    data = model_of(some, initializers=initializers, functions=[function]).SerializeToString()

    assert _again(data, threshold) == data


# Bytes that are no model


def _assert_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(ModeloptError):
        assert isinstance(serialize.from_bytes(data), ir.Model)


def test_mutated_models_are_read_or_refused() -> None:
    rng = np.random.default_rng(7)
    originals = [big_model().SerializeToString(), SAMPLE.read_bytes()]
    for case in range(2000):
        data = bytearray(originals[case % 2])
        head = len(data) if case % 3 else 400  # structure is at the front and between weights
        for position in rng.integers(0, head, size=rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        _assert_only_our_errors(bytes(data))


def test_truncated_models_are_read_or_refused() -> None:
    data = big_model().SerializeToString()
    for length in range(0, len(data), 37):
        _assert_only_our_errors(data[:length])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    _assert_only_our_errors(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="a graph of 2^63 bytes"),
        pytest.param(b"\x3a" + b"\xff" * 11, id="a length without an end"),
        pytest.param(b"\x3b\x3c", id="a group"),
        pytest.param(b"\x02\x00", id="field number 0"),
        pytest.param(b"\x39\x00", id="eight bytes of which one is there"),
    ],
)
def test_broken_wire_formats_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="not an ONNX model"):
        protobuf_wire.detach(data, 0)


def test_deep_nesting_is_refused() -> None:
    data = b""
    for _ in range(2000):
        for number in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            data = bytes([number << 3 | 2]) + protobuf_wire._varint(len(data)) + data
    with pytest.raises(InputError, match="not an ONNX model") as caught:
        protobuf_wire.detach(protobuf_wire._key(7) + protobuf_wire._varint(len(data)) + data, 0)
    assert caught.value.note == "messages are nested more than 100 deep"


# Forged markers


def _forged(number: str) -> bytes:
    model = model_of([helper.make_node("Add", ["x", "stolen"], ["y"])], initializers=[weight("w", 1000)])
    stolen = model.graph.initializer.add(name="stolen", data_type=TensorProto.FLOAT, dims=[1000])
    stolen.data_location = TensorProto.EXTERNAL
    stolen.external_data.add(key="location", value=f"{protobuf_wire.MARKER}{number}")
    return model.SerializeToString()


@pytest.mark.parametrize("number", ["0", "0\0", "1", "99\0", "-1", "²", "x", "", "0" * 5000])
def test_a_file_that_holds_a_marker_reads_no_other_tensor(number: str) -> None:
    with pytest.raises(InputError, match="points to data that the file does not hold"):
        serialize.from_bytes(_forged(number))


@pytest.mark.parametrize(
    "text", [f"{protobuf_wire.MARKER}0", f"{protobuf_wire.MARKER}0\0", f"location{protobuf_wire.MARKER}1\0"]
)
def test_the_text_of_a_marker_is_only_text_elsewhere(text: str) -> None:
    model = model_of([helper.make_node("Add", ["x", text], ["y"], name=text)], initializers=[weight(text, 1000)])
    model.doc_string = model.graph.initializer[0].doc_string = text
    model.metadata_props.add(key=text, value=text)

    assert onnx.ModelProto.FromString(serialize.to_bytes(serialize.from_bytes(model.SerializeToString()))) == model


def test_an_external_tensor_named_like_a_marker_stays_external() -> None:
    model = ir.from_proto(model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 1000)]))
    value = model.graph.initializers["w"]
    value.const_value = ir.ExternalTensor(
        f"{protobuf_wire.MARKER}1.onnx.data", 64, 4000, ir.DataType.FLOAT, shape=ir.Shape([1000]), name="w"
    )

    (tensor,) = onnx.ModelProto.FromString(serialize.to_bytes(model)).graph.initializer

    assert tensor.data_location == TensorProto.EXTERNAL
    assert {entry.key: entry.value for entry in tensor.external_data} == {
        "location": f"{protobuf_wire.MARKER}1.onnx.data",
        "offset": "64",
        "length": "4000",
    }


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
