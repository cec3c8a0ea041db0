"""The places in a model that hold tensors, and what may stand in a tensor's place while its bytes are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError


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
def replaced(model: ir.Model, make: Callable[[ir.TensorProtocol], ir.ExternalTensor | None]) -> Iterator[None]:
    """Put what `make` returns in the place of each tensor for a while; None leaves that tensor."""
    changed: list[Slot] = []
    try:
        for slot in slots(model):
            new = make(slot.tensor)
            if new is not None:
                changed.append(slot)
                slot.set(new)
        yield
    finally:
        for slot in changed:
            slot.set(slot.tensor)


def is_large(tensor: ir.TensorProtocol, min_bytes: int) -> bool:
    """Whether a tensor has so many bytes; strings have none of their own."""
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes >= min_bytes


@contextmanager
def externalized(model: ir.Model, location: str, min_bytes: int) -> Iterator[list[tuple[int, ir.TensorProtocol]]]:
    """Point large tensors to a data file for a while; yields (offset, tensor) in the order of that file.

    Offsets are multiples of 4096 for tensors of at least 1 MiB, which can then be mapped, else of 64.
    """
    layout: list[tuple[int, ir.TensorProtocol]] = []
    end = 0

    def place(tensor: ir.TensorProtocol) -> ir.ExternalTensor | None:
        nonlocal end
        if not is_large(tensor, min_bytes):
            return None
        alignment = 4096 if tensor.nbytes >= 1 << 20 else 64
        offset = -(-end // alignment) * alignment
        layout.append((offset, tensor))
        end = offset + tensor.nbytes
        return external_tensor(tensor, location, offset, tensor.nbytes)

    with replaced(model, place):
        yield layout


def external_tensor(
    tensor: ir.TensorProtocol, location: str, offset: int | None = None, length: int | None = None
) -> ir.ExternalTensor:
    """A tensor like `tensor` whose bytes are elsewhere."""
    return ir.ExternalTensor(
        location,
        offset,
        length,
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
