"""Seeded damage to types, dims and tensors of a model."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.campaigns.mutation_picks import DATA_NAME, FLOATS, NUMBERS, a_tensor, a_value, nodes_of, point_out, scopes_of

_TYPES = (*range(-1, 30), 1000, 2**31 - 1)


def value_retyped(rng: Random, proto: onnx.ModelProto) -> None:
    value = a_value(rng, proto)
    kind = rng.choice(("tensor", "none", "sequence", "optional", "sparse", "map", "deep"))
    element = rng.choice(_TYPES)
    inner = onnx.TypeProto()
    if kind == "tensor":
        value.type.tensor_type.elem_type = element
        return
    inner.tensor_type.elem_type = abs(element) % 20
    value.ClearField("type")
    if kind == "sequence":
        value.type.sequence_type.elem_type.CopyFrom(inner)
    elif kind == "optional":
        value.type.optional_type.elem_type.CopyFrom(inner)
    elif kind == "sparse":
        value.type.sparse_tensor_type.elem_type = element
    elif kind == "map":
        value.type.map_type.key_type = element
        value.type.map_type.value_type.CopyFrom(inner)
    elif kind == "deep":
        type_ = value.type
        for _ in range(rng.choice((2, 20, 60))):
            type_ = type_.sequence_type.elem_type
        type_.CopyFrom(inner)


def value_dims(rng: Random, proto: onnx.ModelProto) -> None:
    shape = a_value(rng, proto).type.tensor_type.shape
    kind = rng.random()
    if shape.dim and kind < 0.5:
        dim = shape.dim[rng.randrange(len(shape.dim))]
        if rng.random() < 0.7:
            dim.dim_value = rng.choice(NUMBERS)
        else:
            dim.dim_param = rng.choice(("", "n", "batch", "-1", "2*n", "\x1b[31m"))
    elif shape.dim and kind < 0.7:
        del shape.dim[rng.randrange(len(shape.dim)) :]
    else:
        for _ in range(rng.choice((1, 2, 40))):
            shape.dim.add(dim_value=rng.choice((1, 2, 0)))


def tensor_dims(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = a_tensor(rng, proto)
    kind = rng.random()
    if tensor.dims and kind < 0.5:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif tensor.dims and kind < 0.7:
        tensor.dims[:] = rng.sample(list(tensor.dims), len(tensor.dims))
    elif kind < 0.85:
        tensor.dims.extend([1] * rng.choice((1, 3, 70)))
    else:
        del tensor.dims[:]


def tensor_size(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = a_tensor(rng, proto)
    raw = tensor.raw_data
    tensor.raw_data = rng.choice((raw[: len(raw) // 2], raw + b"\0", b"", raw * 3))


def tensor_retyped(rng: Random, proto: onnx.ModelProto) -> None:
    a_tensor(rng, proto).data_type = rng.choice(_TYPES)


def tensor_reshaped(rng: Random, proto: onnx.ModelProto) -> None:
    """Another size, type and content that fit each other."""
    tensor = a_tensor(rng, proto)
    shape = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.randrange(5))]
    dtype = rng.choice((np.float32, np.float64, np.int64, np.int32, np.uint8, np.int8, np.bool_, np.float16))
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, dtype), tensor.name))


def tensor_values(rng: Random, proto: onnx.ModelProto) -> None:
    """Extreme numbers in a constant: in shapes, axes, repeats and limits they ask for the impossible."""
    scopes = [scope for scope in scopes_of(proto) if isinstance(scope, onnx.GraphProto)]
    found = [tensor for scope in scopes for tensor in scope.initializer]
    found += [attribute.t for node in nodes_of(proto) for attribute in node.attribute if attribute.HasField("t")]
    whole = [tensor for tensor in found if tensor.data_type in {TensorProto.INT64, TensorProto.INT32}]
    tensor = rng.choice(whole or found or [TensorProto()])
    if tensor.data_type not in {1, 6, 7, 11} or tensor.data_location == TensorProto.EXTERNAL:
        return
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError):  # an earlier change
        return
    if array.size:
        numbers = NUMBERS if array.dtype.kind == "i" else FLOATS
        with np.errstate(all="ignore"):
            array.reshape(-1)[rng.randrange(array.size)] = np.array(rng.choice(numbers)).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def tensor_external(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = a_tensor(rng, proto)
    if not tensor.external_data:
        entries: dict[str, object] = {"location": rng.choice((DATA_NAME, "", "missing", "model.onnx", ".", "a/b"))}
        point_out(tensor, entries if rng.random() < 0.8 else {})
        return
    entry = rng.choice(tensor.external_data)
    if rng.random() < 0.6:
        entry.value = rng.choice((*map(str, NUMBERS), "", "x", "1.5", " 4 ", "0x10", "९", "missing", "9" * 5000))
    elif rng.random() < 0.5:
        entry.key = rng.choice(("", "location", "offset", "length", "checksum", "other"))
    else:
        tensor.external_data.add().CopyFrom(entry)


def tensor_removed(rng: Random, proto: onnx.ModelProto) -> None:
    if proto.graph.initializer:
        del proto.graph.initializer[rng.randrange(len(proto.graph.initializer))]
