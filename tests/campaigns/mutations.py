"""Seeded damage to small valid models: bytes, operators, attributes, edges, types, dims, weights, data files, scopes.

`mutant(seed)` is always the same: a model that works, and one to four changes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from tests.campaigns import generate
from tests.helpers import big_model

DATA_NAME = "model.data"
"""The data file of a mutant, beside the model."""

_NUMBERS = (0, 1, -1, 2, 3, 7, -2, 8, 127, 255, -128, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 3e38, float("nan"), float("inf"), float("-inf"))
_OPERATORS = (
    *("Add", "Mul", "Sub", "Div", "Conv", "Gemm", "MatMul", "Relu", "Clip", "Cast", "Reshape", "Transpose", "Concat"),
    *("Slice", "Gather", "Shape", "Constant", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Split"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "Dropout", "Identity", "If", "Loop", "Scan"),
    *("Softmax", "ReduceMean", "Squeeze", "Unsqueeze", "Einsum", "Where", "NonZero", "TopK", "LSTM", "QuantizeLinear"),
    *("DequantizeLinear", "SequenceEmpty", "SequenceAt", "OptionalHasElement", "OneHot", "CumSum", "Attention"),
    *("", "F", "FusedMatMul", "NoSuchOperator", "Ünï\x1b[31m"),
)
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "no.such.domain", "ai.onnx.training")
_TYPES = (*range(-1, 30), 1000, 2**31 - 1)


@dataclass(frozen=True)
class Mutant:
    """A damaged model.

    Attributes:
        content: The model file.
        data: Its data file, called `DATA_NAME`; None where it has none.
        changes: The names of the changes, in order.
    """

    content: bytes
    data: bytes | None
    changes: tuple[str, ...]


def mutant(seed: int) -> Mutant:
    """The mutant of this seed."""
    rng = Random(seed)
    proto, data = _base(rng)
    changes = []
    if rng.random() < 0.85:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change = rng.choice(CHANGES)
            with suppress(DecodeError):  # bodies in bodies are too deep to be copied
                change(rng, proto)
            changes.append(change.__name__.lstrip("_"))
    content = proto.SerializeToString()
    if not changes or rng.random() < 0.1:
        content = damaged(rng, content)
        changes.append("bytes")
    if data is not None and rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
        changes.append("data file cut")
    return Mutant(content, data, tuple(changes))


def _base(rng: Random) -> tuple[onnx.ModelProto, bytes | None]:
    kind = rng.random()
    if kind < 0.15:
        return big_model(), None
    proto = generate.model(rng.randrange(2000)).proto
    if kind < 0.3 and proto.graph.initializer:
        return proto, _moved_out(proto)
    return proto, None


def _moved_out(proto: onnx.ModelProto) -> bytes:
    """Move all weights to a data file; returns its content."""
    data = b""
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        _point_out(tensor, {"location": DATA_NAME, "offset": len(data), "length": len(raw)})
        data += raw
    return data or b"\0"


def _point_out(tensor: TensorProto, entries: dict[str, object]) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


# What a change picks from


def _scopes(proto: onnx.ModelProto) -> list[Any]:
    """The graph, all bodies and all functions."""
    found: list[Any] = [proto.graph, *proto.functions]
    for scope in found:
        for node in scope.node:
            for attribute in node.attribute:
                found += [attribute.g] if attribute.HasField("g") else []
                found += attribute.graphs
    return found


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for scope in _scopes(proto) for node in scope.node]


def _a_node(rng: Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(_nodes(proto) or [onnx.NodeProto()])


def _an_attribute(rng: Random, proto: onnx.ModelProto) -> AttributeProto:
    found = [attribute for node in _nodes(proto) for attribute in node.attribute]
    return rng.choice(found) if found else AttributeProto()


def _a_tensor(rng: Random, proto: onnx.ModelProto) -> TensorProto:
    found = [tensor for scope in _scopes(proto) for tensor in getattr(scope, "initializer", ())]
    found += [attribute.t for node in _nodes(proto) for attribute in node.attribute if attribute.HasField("t")]
    return rng.choice(found) if found else TensorProto()


def _a_value(rng: Random, proto: onnx.ModelProto) -> onnx.ValueInfoProto:
    found = [
        value
        for scope in _scopes(proto)
        if isinstance(scope, onnx.GraphProto)
        for value in (*scope.input, *scope.output, *scope.value_info)
    ]
    return rng.choice(found) if found else onnx.ValueInfoProto()


_Proto = TypeVar("_Proto", onnx.NodeProto, onnx.AttributeProto, onnx.GraphProto)


def _copy(proto: _Proto) -> _Proto:
    made = type(proto)()
    made.CopyFrom(proto)
    return made


def _a_name(rng: Random, proto: onnx.ModelProto) -> str:
    names = [name for node in _nodes(proto) for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in proto.graph.initializer]
    return rng.choice([*names, "", "nowhere", rng.choice(names or [""])])


# Changes


def _operator(rng: Random, proto: onnx.ModelProto) -> None:
    _a_node(rng, proto).op_type = rng.choice(_OPERATORS)


def _domain(rng: Random, proto: onnx.ModelProto) -> None:
    _a_node(rng, proto).domain = rng.choice(_DOMAINS)


def _attribute_value(rng: Random, proto: onnx.ModelProto) -> None:
    attribute = _an_attribute(rng, proto)
    attribute.i = rng.choice(_NUMBERS)
    attribute.f = rng.choice(_FLOATS)
    attribute.s = rng.choice((b"", b"NOTSET", b"SAME_UPPER", b"\xff\xfe", b"constant", b"ij,jk->ik"))
    if attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
    elif rng.random() < 0.5:
        del attribute.ints[rng.randrange(4) :]
    else:
        attribute.ints.extend(rng.choices(_NUMBERS, k=rng.randrange(4)))


def _attribute_removed(rng: Random, proto: onnx.ModelProto) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.attribute] or [onnx.NodeProto()])
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def _attribute_twice(rng: Random, proto: onnx.ModelProto) -> None:
    kept = _copy(_an_attribute(rng, proto))  # it may hold the place that it goes to
    _a_node(rng, proto).attribute.add().CopyFrom(kept)


def _attribute_type(rng: Random, proto: onnx.ModelProto) -> None:
    attribute = _an_attribute(rng, proto)
    if rng.random() < 0.2:
        attribute.ref_attr_name = rng.choice(("", "alpha", attribute.name))
        return
    attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))  # type: ignore[assignment]


def _attribute_name(rng: Random, proto: onnx.ModelProto) -> None:
    _an_attribute(rng, proto).name = rng.choice(("", "axis", "axes", "value", "to", "perm", "body", "then_branch"))


def _attribute_added(rng: Random, proto: onnx.ModelProto) -> None:
    values = (*_NUMBERS, 0.5, "text", [1, 0], [0.5], ["a"], [2**62, -1])
    name = rng.choice(("axis", "axes", "perm", "alpha", "to", "epsilon", "keepdims", "group", "pads", "shape", "value"))
    _a_node(rng, proto).attribute.append(helper.make_attribute(name, rng.choice(values)))


def _edge_in(rng: Random, proto: onnx.ModelProto) -> None:
    node = _a_node(rng, proto)
    kind = rng.random()
    if node.input and kind < 0.6:
        node.input[rng.randrange(len(node.input))] = _a_name(rng, proto)
    elif node.input and kind < 0.8:
        del node.input[rng.randrange(len(node.input))]
    else:
        node.input.append(_a_name(rng, proto))


def _edge_out(rng: Random, proto: onnx.ModelProto) -> None:
    node = _a_node(rng, proto)
    kind = rng.random()
    if node.output and kind < 0.6:
        node.output[rng.randrange(len(node.output))] = _a_name(rng, proto)
    elif node.output and kind < 0.8:
        del node.output[rng.randrange(len(node.output))]
    else:
        node.output.append(_a_name(rng, proto))


def _node_twice(rng: Random, proto: onnx.ModelProto) -> None:
    kept = _copy(_a_node(rng, proto))
    rng.choice(_scopes(proto)).node.add().CopyFrom(kept)


def _node_removed(rng: Random, proto: onnx.ModelProto) -> None:
    scope = rng.choice(_scopes(proto))
    if scope.node:
        del scope.node[rng.randrange(len(scope.node))]


def _nodes_swapped(rng: Random, proto: onnx.ModelProto) -> None:
    scope = rng.choice(_scopes(proto))
    if len(scope.node) > 1:
        first, second = rng.sample(range(len(scope.node)), 2)
        kept = _copy(scope.node[first])
        scope.node[first].CopyFrom(scope.node[second])
        scope.node[second].CopyFrom(kept)


def _value_type(rng: Random, proto: onnx.ModelProto) -> None:
    value = _a_value(rng, proto)
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


def _value_dims(rng: Random, proto: onnx.ModelProto) -> None:
    shape = _a_value(rng, proto).type.tensor_type.shape
    kind = rng.random()
    if shape.dim and kind < 0.5:
        dim = shape.dim[rng.randrange(len(shape.dim))]
        if rng.random() < 0.7:
            dim.dim_value = rng.choice(_NUMBERS)
        else:
            dim.dim_param = rng.choice(("", "n", "batch", "-1", "2*n", "\x1b[31m"))
    elif shape.dim and kind < 0.7:
        del shape.dim[rng.randrange(len(shape.dim)) :]
    else:
        for _ in range(rng.choice((1, 2, 40))):
            shape.dim.add(dim_value=rng.choice((1, 2, 0)))


def _tensor_dims(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = _a_tensor(rng, proto)
    kind = rng.random()
    if tensor.dims and kind < 0.5:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
    elif tensor.dims and kind < 0.7:
        tensor.dims[:] = rng.sample(list(tensor.dims), len(tensor.dims))
    elif kind < 0.85:
        tensor.dims.extend([1] * rng.choice((1, 3, 70)))
    else:
        del tensor.dims[:]


def _tensor_size(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = _a_tensor(rng, proto)
    raw = tensor.raw_data
    tensor.raw_data = rng.choice((raw[: len(raw) // 2], raw + b"\0", b"", raw * 3))


def _tensor_type(rng: Random, proto: onnx.ModelProto) -> None:
    _a_tensor(rng, proto).data_type = rng.choice(_TYPES)


def _tensor_reshaped(rng: Random, proto: onnx.ModelProto) -> None:
    """Another size, type and content that fit each other."""
    tensor = _a_tensor(rng, proto)
    shape = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.randrange(5))]
    dtype = rng.choice((np.float32, np.float64, np.int64, np.int32, np.uint8, np.int8, np.bool_, np.float16))
    tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, dtype), tensor.name))


def _tensor_values(rng: Random, proto: onnx.ModelProto) -> None:
    """Extreme numbers in a constant: in shapes, axes, repeats and limits they ask for the impossible."""
    scopes = [scope for scope in _scopes(proto) if isinstance(scope, onnx.GraphProto)]
    found = [tensor for scope in scopes for tensor in scope.initializer]
    found += [attribute.t for node in _nodes(proto) for attribute in node.attribute if attribute.HasField("t")]
    whole = [tensor for tensor in found if tensor.data_type in {TensorProto.INT64, TensorProto.INT32}]
    tensor = rng.choice(whole or found or [TensorProto()])
    if tensor.data_type not in {1, 6, 7, 11} or tensor.data_location == TensorProto.EXTERNAL:
        return
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except (ValueError, TypeError):  # an earlier change
        return
    if array.size:
        numbers = _NUMBERS if array.dtype.kind == "i" else _FLOATS
        with np.errstate(all="ignore"):
            array.reshape(-1)[rng.randrange(array.size)] = np.array(rng.choice(numbers)).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _tensor_external(rng: Random, proto: onnx.ModelProto) -> None:
    tensor = _a_tensor(rng, proto)
    if not tensor.external_data:
        entries: dict[str, object] = {"location": rng.choice((DATA_NAME, "", "missing", "model.onnx", ".", "a/b"))}
        _point_out(tensor, entries if rng.random() < 0.8 else {})
        return
    entry = rng.choice(tensor.external_data)
    if rng.random() < 0.6:
        entry.value = rng.choice((*map(str, _NUMBERS), "", "x", "1.5", " 4 ", "0x10", "९", "missing", "9" * 5000))
    elif rng.random() < 0.5:
        entry.key = rng.choice(("", "location", "offset", "length", "checksum", "other"))
    else:
        tensor.external_data.add().CopyFrom(entry)


def _tensor_removed(rng: Random, proto: onnx.ModelProto) -> None:
    if proto.graph.initializer:
        del proto.graph.initializer[rng.randrange(len(proto.graph.initializer))]


def _opset(rng: Random, proto: onnx.ModelProto) -> None:
    kind = rng.random()
    if kind < 0.6 and proto.opset_import:
        rng.choice(proto.opset_import).version = rng.choice((*range(1, 30), 0, -1, 100, 2**63 - 1))
    elif kind < 0.75:
        del proto.opset_import[:]
    elif kind < 0.9:
        proto.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice((1, 7, 13, 99)))
    else:
        proto.ir_version = rng.choice((0, 1, 2, 3, 4, 7, 99, 2**63 - 1, -1))


def _name_of_node(rng: Random, proto: onnx.ModelProto) -> None:
    _a_node(rng, proto).name = rng.choice((*(node.name for node in _nodes(proto)), "", "a" * 100_000))


def _name_of_tensor(rng: Random, proto: onnx.ModelProto) -> None:
    _a_tensor(rng, proto).name = _a_name(rng, proto)


def _name_of_value(rng: Random, proto: onnx.ModelProto) -> None:
    _a_value(rng, proto).name = _a_name(rng, proto)


def _interface(rng: Random, proto: onnx.ModelProto) -> None:
    values = rng.choice((proto.graph.input, proto.graph.output))
    kind = rng.random()
    if values and kind < 0.3:
        del values[rng.randrange(len(values))]
    elif values and kind < 0.6:
        values.add().CopyFrom(rng.choice(values))
    elif kind < 0.8:
        values.add().CopyFrom(_a_value(rng, proto))
    else:
        values.add(name=_a_name(rng, proto))


def _scope_interface(rng: Random, proto: onnx.ModelProto) -> None:
    """Inputs and outputs of a body or a function."""
    scope = rng.choice(_scopes(proto))
    values = rng.choice((scope.input, scope.output))
    if values and rng.random() < 0.6:
        del values[rng.randrange(len(values))]
    elif isinstance(scope, onnx.GraphProto):
        values.add().CopyFrom(_a_value(rng, proto))
    else:
        values.append(_a_name(rng, proto))


def _body(rng: Random, proto: onnx.ModelProto) -> None:
    """A body where none belongs, one inside itself, or bodies in bodies."""
    node = _a_node(rng, proto)
    body = _copy(rng.choice([scope for scope in _scopes(proto) if isinstance(scope, onnx.GraphProto)]))
    for _ in range(rng.choice((0, 0, 1, 5, 20))):
        outer = onnx.GraphProto(name="outer")
        outer.node.add(op_type="If", input=[_a_name(rng, proto)], output=["deep"]).attribute.append(
            helper.make_attribute("then_branch", body)
        )
        body = outer
    node.attribute.append(helper.make_attribute(rng.choice(("body", "then_branch", "else_branch")), body))
    if rng.random() < 0.5:
        node.op_type = rng.choice(("If", "Loop", "Scan", "SequenceMap"))


def _function(rng: Random, proto: onnx.ModelProto) -> None:
    """A function, often one that calls itself, is there twice, or stands for a standard operator."""
    node = _a_node(rng, proto)
    domain, name = rng.choice((("local", "F"), (node.domain, node.op_type), ("", "")))
    inner = [helper.make_node(rng.choice((name, "Add", "Relu")), ["a"], ["b"], domain=rng.choice((domain, "")))]
    made = helper.make_function(domain, name, ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    if rng.random() < 0.3:
        made.attribute.extend(["alpha", "alpha"])
    proto.functions.append(made)
    if rng.random() < 0.5:
        node.op_type, node.domain = name, domain
    if rng.random() < 0.5:
        proto.opset_import.add(domain=domain, version=1)


def _side_data(rng: Random, proto: onnx.ModelProto) -> None:
    """What surrounds the graph: metadata, annotations, value types, texts, sparse tensors, training."""
    graph = proto.graph
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(2):
            proto.metadata_props.add(
                key=rng.choice(("", "modelopt", "modelopt.log", "k")), value=rng.choice(("", "{", "v" * 99))
            )
    elif kind == 1:
        note = graph.quantization_annotation.add(tensor_name=_a_name(rng, proto))
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=_a_name(rng, proto))
    elif kind == 2:
        graph.value_info.add().CopyFrom(_a_value(rng, proto))
    elif kind == 3:
        proto.doc_string = graph.doc_string = "\x1b[2J" * 10
    elif kind == 4:
        graph.sparse_initializer.add()
    elif kind == 5:
        proto.training_info.add()
    else:
        proto.ClearField("graph")


CHANGES: Sequence[Callable[[Random, onnx.ModelProto], None]] = (
    *(_operator, _operator, _domain, _attribute_value, _attribute_value, _attribute_removed, _attribute_twice),
    *(_attribute_type, _attribute_name, _attribute_added, _edge_in, _edge_in, _edge_out, _node_twice, _node_removed),
    *(_nodes_swapped, _value_type, _value_dims, _tensor_dims, _tensor_size, _tensor_type, _tensor_reshaped),
    *(_tensor_reshaped, _tensor_values, _tensor_values, _tensor_external, _tensor_removed, _opset, _name_of_node),
    *(_name_of_tensor, _name_of_value, _interface, _scope_interface, _body, _function, _side_data),
)


def damaged(rng: Random, content: bytes) -> bytes:
    """Bytes flipped, inserted, removed, repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 16))]
        elif kind == 4:
            data[at:at] = data[at : at + 40]
        elif rng.random() < 0.4:
            del data[at:]
    return bytes(data)
