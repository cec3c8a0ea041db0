"""Bytes ↔ `onnx_ir.Model` without copying the weights. It opens no files and makes no checks of its own."""

from __future__ import annotations

import contextlib
import gc
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.io import model_proto, protobuf_wire
from modelopt.io.tensor_slots import external_tensor, is_large, replaced, slots, view_tensor

_DETACH_BYTES = 1024


def parse(
    buffer: protobuf_wire.Buffer, max_nodes: int = sys.maxsize
) -> tuple[onnx.ModelProto, list[protobuf_wire.Blob]]:
    """A ModelProto whose large tensors are markers, and where in `buffer` their bytes are.

    Args:
        buffer: A serialized ModelProto.
        max_nodes: How many nodes and initializers it may hold.

    Raises:
        InputError: The bytes are not a model.
        Refused: It holds more nodes.
    """
    skeleton, blobs = protobuf_wire.detach(buffer, _DETACH_BYTES, max_nodes)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError is private to its implementation
        if type(error).__name__ != "DecodeError":
            raise
        raise InputError("not an ONNX model", note=str(error)) from None
    _check_text(proto)
    if model_proto.count_nodes(proto) > max_nodes:  # small bodies were not walked before
        raise protobuf_wire.too_many_nodes(max_nodes)
    return proto, blobs


def _check_text(message: Any) -> None:
    """Names that are no UTF-8 would come out of protobuf as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if any(isinstance(text, bytes) for text in ((value,) if isinstance(value, str | bytes) else value)):
                raise InputError("not a valid ONNX model", note=f"'{field.full_name}' is not UTF-8")
        elif field.type == field.TYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                _check_text(inner)


def to_model(proto: onnx.ModelProto, buffer: protobuf_wire.Buffer, blobs: list[protobuf_wire.Blob]) -> ir.Model:
    """The model of a parsed proto; its large tensors are views into `buffer`, read when they are needed.

    Raises:
        InputError: onnx_ir does not read the proto, or a tensor's bytes do not fit its dtype and dims.
    """
    try:
        with warnings.catch_warnings(), _without_collector():
            warnings.simplefilter("ignore")  # external data entries that onnx does not know
            model = model_of(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError("not a valid ONNX model", note=_root_cause(error)) from None
    view = memoryview(buffer)
    unclaimed = dict(enumerate(blobs))
    for slot in slots(model):
        tensor = slot.tensor
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location).startswith(protobuf_wire.MARKER):
            number = str(tensor.location).removeprefix(protobuf_wire.MARKER).rstrip("\0")
            # Each blob belongs to one tensor: a marker that was in the file from the start is a forgery.
            blob = unclaimed.pop(int(number), None) if re.fullmatch("[0-9]{1,18}", number) else None
            if blob is None:
                raise InputError(f"the tensor '{tensor.name}' points to data that the file does not hold")
            slot.set(view_tensor(tensor, view[blob.offset : blob.offset + blob.length]))
    return model


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Leave reference cycles alone for a while: looking for them again and again doubles the time of a large model."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def from_bytes(buffer: protobuf_wire.Buffer) -> ir.Model:
    """A model from bytes that hold all of it."""
    proto, blobs = parse(buffer)
    return to_model(proto, buffer, blobs)


def skeleton_from_bytes(buffer: bytes) -> ir.Model:
    """A model from ``to_bytes(model, weights=False)``: its large tensors must not be read."""
    return model_of(onnx.ModelProto.FromString(buffer))


def model_of(proto: onnx.ModelProto) -> ir.Model:
    """The model of a proto without detached tensors; `proto` is changed where it holds map types or long lists.

    Raises:
        SerdeError: onnx_ir does not read it.
    """
    model_proto.hide_maps(proto)
    model_proto.pack_long_constants(proto)
    model: ir.Model = ir.from_proto(proto)
    return model


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """The proto of a model, map types included."""
    proto = ir.to_proto(model)
    model_proto.show_maps(proto)
    return proto


def chunks(model: ir.Model, *, weights: bool = True) -> Iterator[protobuf_wire.Buffer]:
    """The serialized model, with every tensor inside, as a stream of chunks.

    Args:
        model: The model; unchanged once the iterator is exhausted or closed.
        weights: False leaves large tensors as markers: enough for shape inference, not to run.
    """
    payloads: list[ir.TensorProtocol] = []

    def marker(tensor: ir.TensorProtocol) -> ir.ExternalTensor | None:
        if not is_large(tensor, _DETACH_BYTES) or isinstance(tensor, ir.ExternalTensor):  # `externalized` is at work
            return None
        payloads.append(tensor)
        return external_tensor(tensor, f"{protobuf_wire.MARKER}{len(payloads) - 1}\0")

    with replaced(model, marker):
        proto = proto_of(model)
    model_proto.tidy(proto)
    skeleton = proto.SerializeToString(deterministic=True)
    if not weights:
        yield skeleton
        return
    yield from protobuf_wire.attach(skeleton, lambda i: payloads[i].nbytes, lambda i: tensor_bytes(payloads[i]))


def metadata_chunk(metadata: Mapping[str, str]) -> bytes:
    """Entries of ``metadata_props`` to write behind a serialized model: protobuf reads two messages in a row as one."""
    proto = onnx.ModelProto()
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True)


def to_bytes(model: ir.Model, *, weights: bool = True) -> bytes:
    """`chunks` in one piece."""
    return b"".join(chunks(model, weights=weights))


def tensor_bytes(tensor: ir.TensorProtocol) -> protobuf_wire.Buffer:
    """The little-endian ``raw_data`` of a tensor, without a copy where its array is contiguous."""
    if tensor.dtype.bitwidth >= 8 and np.little_endian:
        array = tensor.numpy()
        if array.dtype.byteorder in "=|<":
            return graph.raw_bytes(array)
    return tensor.tobytes()


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def aligned(payloads: Iterable[tuple[int, ir.TensorProtocol]]) -> Iterator[protobuf_wire.Buffer]:
    """The bytes of tensors at their offsets in a data file, with zeros between."""
    position = 0
    for offset, tensor in payloads:
        yield bytes(offset - position)
        payload = tensor_bytes(tensor)
        yield payload
        position = offset + len(payload)
