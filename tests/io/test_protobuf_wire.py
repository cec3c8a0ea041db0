"""Bytes: models come apart and together again without a change, and bytes that are no model are an InputError."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.errors import InputError, ModeloptError
from modelopt.io import protobuf_wire, serialize
from tests.helpers import big_model, model_of, weight
from tests.paths import SAMPLE_MODELS

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
