"""What is in a ModelProto, scope by scope, and the passage of map types through onnx_ir, which does not know them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from modelopt.graph import STANDARD_DOMAINS
from modelopt.graph.types import MAP_MARK, read_map_mark

_LONG = 1024


def graph_protos(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and all bodies."""
    yield proto.graph
    for attribute in attribute_protos(proto):
        yield from _body_protos(attribute)


def value_infos(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Everything in every scope that states the type of a value."""
    for scope in graph_protos(proto):
        yield from (*scope.input, *scope.output, *scope.value_info)
    for function in proto.functions:
        yield from function.value_info


def node_protos(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node in every scope."""
    for scope in graph_protos(proto):
        yield from scope.node
    for function in proto.functions:
        yield from function.node


def count_nodes(proto: onnx.ModelProto) -> int:
    """How many nodes and initializers all scopes hold together."""
    in_graphs = sum(len(scope.node) + len(scope.initializer) for scope in graph_protos(proto))
    return in_graphs + sum(len(function.node) for function in proto.functions)


def attribute_protos(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """Every attribute in every scope, and the defaults of functions."""
    pending: list[onnx.AttributeProto] = [attribute for node in proto.graph.node for attribute in node.attribute]
    for function in proto.functions:
        pending += [*function.attribute_proto, *(attribute for node in function.node for attribute in node.attribute)]
    while pending:
        attribute = pending.pop()
        yield attribute
        for body in _body_protos(attribute):
            pending += [inner for node in body.node for inner in node.attribute]


def _body_protos(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def tensor_protos(attribute: onnx.AttributeProto) -> tuple[onnx.TensorProto, ...]:
    """The tensors that an attribute holds."""
    return (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def tidy(proto: onnx.ModelProto) -> None:
    """Remove what onnx_ir 1.1 adds to a model: types of initializers, and metadata of tensors that it writes twice."""
    for scope in graph_protos(proto):
        stored = {tensor.name for tensor in scope.initializer}
        kept = [info for info in scope.value_info if info.name not in stored]
        if len(kept) < len(scope.value_info):
            del scope.value_info[:]
            scope.value_info.extend(kept)
        for tensor in scope.initializer:
            _tidy_tensor(tensor)
    for attribute in attribute_protos(proto):
        for tensor in tensor_protos(attribute):
            _tidy_tensor(tensor)


def _tidy_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.metadata_props:
        said = {entry.key: entry.value for entry in tensor.metadata_props}
        del tensor.metadata_props[:]
        for key, value in said.items():
            tensor.metadata_props.add(key=key, value=value)


def pack_long_constants(proto: onnx.ModelProto) -> None:
    """Store long lists of numbers in Constant nodes as tensors: as objects of Python they take ten times as much."""
    for node in node_protos(proto):
        if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
            continue
        for attribute in node.attribute:
            if attribute.name == "value_ints" and attribute.type == onnx.AttributeProto.INTS:
                _pack(attribute, "ints", onnx.TensorProto.INT64)
            elif attribute.name == "value_floats" and attribute.type == onnx.AttributeProto.FLOATS:
                _pack(attribute, "floats", onnx.TensorProto.FLOAT)


def _pack(attribute: onnx.AttributeProto, field: str, data_type: int) -> None:
    numbers = getattr(attribute, field)
    if attribute.ref_attr_name or len(numbers) < _LONG:
        return
    array = np.fromiter(numbers, onnx.helper.tensor_dtype_to_np_dtype(data_type), len(numbers))
    attribute.t.data_type = data_type
    attribute.t.dims.append(len(numbers))
    attribute.t.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.ClearField(field)


# Map types


def hide_maps(proto: onnx.ModelProto) -> None:
    """Write each map type as the sequence type that stands for it: see `graph.types.MAP_MARK`."""
    for type_ in _all_types(proto):
        _hide(type_)


def show_maps(proto: onnx.ModelProto) -> None:
    """Undo `hide_maps`."""
    for type_ in _all_types(proto):
        _show(type_)


def _all_types(proto: onnx.ModelProto) -> Iterator[onnx.TypeProto]:
    for value in value_infos(proto):
        if value.HasField("type"):
            yield value.type
    for attribute in attribute_protos(proto):
        if attribute.HasField("tp"):
            yield attribute.tp
        yield from attribute.type_protos


def inner_type(type_: onnx.TypeProto) -> onnx.TypeProto | None:
    """What a sequence, an optional or a map holds; None for a tensor."""
    kind = type_.WhichOneof("value")
    if kind == "map_type":
        return type_.map_type.value_type
    return getattr(type_, kind).elem_type if kind in {"sequence_type", "optional_type"} else None


def _hide(type_: onnx.TypeProto) -> None:
    inner = inner_type(type_)
    if inner is None:
        return
    _hide(inner)
    if type_.WhichOneof("value") == "map_type":
        held, key = onnx.TypeProto(), type_.map_type.key_type
        held.CopyFrom(inner)
        type_.sequence_type.elem_type.CopyFrom(held)
        type_.denotation = f"{MAP_MARK}{key}:{type_.denotation}"


def _show(type_: onnx.TypeProto) -> None:
    inner = inner_type(type_)
    if inner is None:
        return
    _show(inner)
    mark = read_map_mark(type_.denotation)
    if mark is not None:
        held = onnx.TypeProto()
        held.CopyFrom(inner)
        type_.map_type.key_type = mark[0].value
        type_.map_type.value_type.CopyFrom(held)
        if mark[1]:
            type_.denotation = mark[1]
        else:
            type_.ClearField("denotation")
