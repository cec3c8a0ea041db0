"""Bytes ↔ `onnx_ir.Model` without copying the weights. Files, checks and atomicity are `modelopt.io`'s business."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.io import model_proto, protobuf_wire

_DETACH_BYTES = 1024


def parse(buffer: protobuf_wire.Buffer) -> tuple[onnx.ModelProto, list[protobuf_wire.Blob]]:
    """A ModelProto whose large tensors are markers, and where in `buffer` their bytes are.

    Raises:
        InputError: The bytes are not a model.
    """
    skeleton, blobs = protobuf_wire.detach(buffer, _DETACH_BYTES)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError is private to its implementation
        if type(error).__name__ != "DecodeError":
            raise
        raise InputError("not an ONNX model", note=str(error)) from None
    _check_text(proto)
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
        with warnings.catch_warnings():
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


def from_bytes(buffer: protobuf_wire.Buffer) -> ir.Model:
    """A model from bytes that hold all of it."""
    proto, blobs = parse(buffer)
    return to_model(proto, buffer, blobs)


def skeleton_from_bytes(buffer: bytes) -> ir.Model:
    """A model from ``to_bytes(model, weights=False)``: its large tensors must not be read."""
    return model_of(onnx.ModelProto.FromString(buffer))


def model_of(proto: onnx.ModelProto) -> ir.Model:
    """The model of a proto without detached tensors; `proto` is changed where it holds map types.

    Raises:
        SerdeError: onnx_ir does not read it.
    """
    model_proto.hide_maps(proto)
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
    with _detached(model, payloads):
        proto = proto_of(model)
    _tidy_graph(proto.graph)
    for function in proto.functions:
        _tidy_attributes(function.attribute_proto)
        _tidy_nodes(function.node)
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


# What onnx_ir adds and the model did not hold


def _tidy_graph(scope: onnx.GraphProto) -> None:
    """Remove value_info of initializers: the initializer says its own type and dims."""
    stored = {tensor.name for tensor in scope.initializer}
    kept = [info for info in scope.value_info if info.name not in stored]
    if len(kept) < len(scope.value_info):
        del scope.value_info[:]
        scope.value_info.extend(kept)
    for tensor in scope.initializer:
        _tidy_tensor(tensor)
    _tidy_nodes(scope.node)


def _tidy_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _tidy_attributes(node.attribute)


def _tidy_attributes(attributes: Iterable[onnx.AttributeProto]) -> None:
    for attribute in attributes:
        for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
            _tidy_tensor(tensor)
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            _tidy_graph(body)


def _tidy_tensor(tensor: onnx.TensorProto) -> None:
    """Say each metadata entry once: onnx_ir 1.1 copies a tensor with its metadata and then adds them again."""
    if tensor.metadata_props:
        said = {entry.key: entry.value for entry in tensor.metadata_props}
        del tensor.metadata_props[:]
        for key, value in said.items():
            tensor.metadata_props.add(key=key, value=value)


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


class Slot:
    """A place in a model that holds a tensor: an initializer or an attribute of a node."""

    def __init__(self, tensor: ir.TensorProtocol, setter: Callable[[ir.TensorProtocol], None]) -> None:
        self.tensor = tensor
        self.set = setter


def slots(model: ir.Model) -> Iterator[Slot]:
    """Every place in every scope that holds a tensor."""
    for scope in graph.all_graphs(model):
        if isinstance(scope, ir.Graph):
            for value in scope.initializers.values():
                if value.const_value is not None:
                    yield _initializer_slot(value, value.const_value)
        for node in scope:
            yield from _attribute_slots(node.attributes)
        if isinstance(scope, ir.Function):
            yield from _attribute_slots(scope.attributes)


def _initializer_slot(value: ir.Value, tensor: ir.TensorProtocol) -> Slot:
    def put(new: ir.TensorProtocol) -> None:
        value.const_value = new

    return Slot(tensor, put)


def _attribute_slots(attributes: MutableMapping[str, ir.Attr]) -> Iterator[Slot]:
    for name, attribute in list(attributes.items()):
        if attribute.is_ref() or attribute.value is None:
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield _tensor_slot(attributes, name, attribute)
        elif attribute.type == ir.AttributeType.TENSORS:
            for index, tensor in enumerate(attribute.value):
                yield _list_slot(attributes, name, index, tensor)


def _tensor_slot(attributes: MutableMapping[str, ir.Attr], name: str, attribute: ir.Attr) -> Slot:
    def put(tensor: ir.TensorProtocol) -> None:
        attributes[name] = ir.AttrTensor(name, tensor, doc_string=attribute.doc_string)

    return Slot(attribute.value, put)


def _list_slot(attributes: MutableMapping[str, ir.Attr], name: str, index: int, tensor: ir.TensorProtocol) -> Slot:
    def put(new: ir.TensorProtocol) -> None:
        present = attributes[name]
        tensors = list(present.value)
        tensors[index] = new
        attributes[name] = ir.AttrTensors(name, tensors, doc_string=present.doc_string)

    return Slot(tensor, put)


@contextmanager
def _detached(model: ir.Model, payloads: list[ir.TensorProtocol]) -> Iterator[None]:
    """Put markers in the place of large tensors for a while; `payloads` receives the tensors."""
    restore: list[tuple[Slot, ir.TensorProtocol]] = []
    try:
        for slot in slots(model):
            tensor = slot.tensor
            if tensor.dtype == ir.DataType.STRING or tensor.nbytes < _DETACH_BYTES:
                continue
            if isinstance(tensor, ir.ExternalTensor):  # `externalized` is at work: its data go to a file of their own
                continue
            restore.append((slot, tensor))
            slot.set(_marker(tensor, len(payloads)))
            payloads.append(tensor)
        yield
    finally:
        for slot, tensor in restore:
            slot.set(tensor)


@contextmanager
def externalized(model: ir.Model, location: str, min_bytes: int) -> Iterator[list[tuple[int, ir.TensorProtocol]]]:
    """Point large tensors to a data file for a while; yields (offset, tensor) in the order of that file.

    Offsets are multiples of 4096 for tensors of at least 1 MiB, which can then be mapped, else of 64.
    """
    restore: list[tuple[Slot, ir.TensorProtocol]] = []
    layout: list[tuple[int, ir.TensorProtocol]] = []
    position = 0
    try:
        for slot in slots(model):
            tensor = slot.tensor
            if tensor.dtype == ir.DataType.STRING or tensor.nbytes < min_bytes:
                continue
            alignment = 4096 if tensor.nbytes >= 1 << 20 else 64
            position = -(-position // alignment) * alignment
            restore.append((slot, tensor))
            layout.append((position, tensor))
            slot.set(
                ir.ExternalTensor(
                    location,
                    position,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=tensor.name or "",
                    doc_string=tensor.doc_string,
                    metadata_props=dict(tensor.metadata_props),
                )
            )
            position += tensor.nbytes
        yield layout
    finally:
        for slot, tensor in restore:
            slot.set(tensor)


def _marker(tensor: ir.TensorProtocol, number: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        f"{protobuf_wire.MARKER}{number}\0",
        None,
        None,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def view_tensor(tensor: ir.ExternalTensor, payload: memoryview) -> ir.LazyTensor:
    """The tensor that `tensor` describes, with `payload` as its bytes; read when it is needed.

    Raises:
        InputError: The payload's length does not fit the dtype and dims.
    """
    if tensor.dtype in {ir.DataType.STRING, ir.DataType.UNDEFINED}:
        kind = "strings" if tensor.dtype == ir.DataType.STRING else "values of no type"
        raise InputError(f"the tensor '{tensor.name}' holds {kind} as raw bytes, which ONNX does not allow")
    expected = tensor.nbytes
    if expected != len(payload):
        raise InputError(
            f"the tensor '{tensor.name}' holds {len(payload)} bytes where its shape and type need {expected}"
        )
    dtype, shape = tensor.dtype, tensor.shape.numpy()

    def load() -> ir.TensorProtocol:
        if dtype.bitwidth >= 8:
            array = np.frombuffer(payload, dtype=np.dtype(dtype.numpy()).newbyteorder("<")).reshape(shape)
            return ir.Tensor(array, dtype=dtype, shape=ir.Shape(shape), name=tensor.name)
        proto = onnx.TensorProto(dims=shape, data_type=dtype.value, raw_data=bytes(payload))
        return ir.serde.deserialize_tensor(proto)

    return ir.LazyTensor(
        load,
        dtype=dtype,
        shape=ir.Shape(shape),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        cache=True,
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
