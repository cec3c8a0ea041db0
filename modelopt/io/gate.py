"""The gate: what a parsed model may hold. Pure Python; nothing native has seen the file yet but protobuf's parser."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from modelopt.errors import InputError, Refused


def refuse_unsupported(proto: onnx.ModelProto, shown: str) -> None:
    """Refuse by name what would be lost on the way, and what no model may hold.

    Raises:
        InputError: A tensor whose bytes do not fit its type and dims.
        Refused: Something that modelopt does not support.
    """
    if not proto.HasField("graph"):
        raise InputError(f"{shown} is not an ONNX model", note="it holds no graph")
    if proto.training_info:
        raise Refused(f"{shown} holds training information, which modelopt would lose")
    for scope in _graph_protos(proto):
        if scope.sparse_initializer:
            raise Refused(f"{shown} holds sparse initializers, which modelopt would lose")
        for tensor in scope.initializer:
            _check_tensor(tensor, shown)
    for value in _value_infos(proto):
        if _holds_map(value.type):
            raise _map_refusal(proto, value.name, shown)
    _check_types(proto, shown)
    for attribute in _attribute_protos(proto):
        _refuse_unsupported_attribute(attribute, shown)


def _map_refusal(proto: onnx.ModelProto, name: str, shown: str) -> Refused:
    """Which value it is, and how to do without, where that is known."""
    kind = "output" if any(value.name == name for value in proto.graph.output) else "value"
    maker = next((node.op_type for node in proto.graph.node if name in node.output), None)
    made = "" if maker is None else f", made by the operator {maker}"
    hint = "export the model with zipmap=False" if maker == "ZipMap" else f"export the model without '{name}'"
    note = f"the {kind} '{name}' is a map or a sequence of maps{made}; modelopt works on tensors"
    return Refused(f"{shown} holds a map: '{name}'", note=note, hint=hint)


_TYPES = frozenset(dtype.value for dtype in ir.DataType) - {onnx.TensorProto.UNDEFINED}
"""The element types that there are."""

_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})
"""Attributes of ONNX's own operators that name an element type."""


def _check_types(proto: onnx.ModelProto, shown: str) -> None:
    """Every type that is stated names an element type; a function's may be left open, as onnxruntime permits."""
    for scope in _graph_protos(proto):
        for kind, values in (("input", scope.input), ("output", scope.output), ("value", scope.value_info)):
            for value in values:
                _check_type(f"the {kind} '{value.name}'", value.type, shown)
    for function in proto.functions:
        for value in function.value_info:
            if _element_type(value.type) != onnx.TensorProto.UNDEFINED:
                _check_type(f"the value '{value.name}' of the function '{function.name}'", value.type, shown)
    for node in _node_protos(proto):
        for attribute in node.attribute:
            what = f"the attribute '{attribute.name}' of {node.op_type} '{node.name or ''.join(node.output[:1])}'"
            for type_ in (attribute.tp, *attribute.type_protos):
                _check_type(what, type_, shown)
            is_number = attribute.type == onnx.AttributeProto.INT and not attribute.ref_attr_name
            if node.domain in {"", "ai.onnx"} and attribute.name in _TYPE_ATTRIBUTES and is_number:
                _check_element_type(what, attribute.i, shown)


def _check_type(what: str, type_: onnx.TypeProto, shown: str) -> None:
    number = _element_type(type_)
    if number is not None:
        _check_element_type(what, number, shown)


def _check_element_type(what: str, number: int, shown: str) -> None:
    if number in _TYPES:
        return
    found = "UNDEFINED" if number == onnx.TensorProto.UNDEFINED else f"{number}, which ONNX does not know"
    raise InputError(
        f"{shown} is not a valid model",
        note=f"{what} has the element type {found}",
        hint="export the model again, with the types of all inputs and outputs",
    )


def _element_type(type_: onnx.TypeProto) -> int | None:
    """The number of the element type that a type states, also within sequences; None where it states none."""
    kind = type_.WhichOneof("value")
    if kind in {"sequence_type", "optional_type"}:
        return _element_type(getattr(type_, kind).elem_type)
    return int(getattr(type_, kind).elem_type) if kind in {"tensor_type", "sparse_tensor_type"} else None


def _refuse_unsupported_attribute(attribute: onnx.AttributeProto, shown: str) -> None:
    if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
        raise Refused(f"{shown} holds an attribute without a type, which modelopt would lose: '{attribute.name}'")
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise Refused(f"{shown} holds a sparse tensor: the attribute '{attribute.name}'")
    if any(_holds_map(type_) for type_ in (attribute.tp, *attribute.type_protos)):
        raise Refused(f"{shown} holds a map: the attribute '{attribute.name}'")
    for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
        _check_tensor(tensor, shown)


def _graph_protos(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for attribute in _attribute_protos(proto):
        yield from _body_protos(attribute)


def _value_infos(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    for scope in _graph_protos(proto):
        yield from (*scope.input, *scope.output, *scope.value_info)
    for function in proto.functions:
        yield from function.value_info


def _node_protos(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for scope in _graph_protos(proto):
        yield from scope.node
    for function in proto.functions:
        yield from function.node


def _attribute_protos(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
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


def _holds_map(type_: onnx.TypeProto) -> bool:
    kind = type_.WhichOneof("value")
    if kind == "sequence_type":
        return _holds_map(type_.sequence_type.elem_type)
    if kind == "optional_type":
        return _holds_map(type_.optional_type.elem_type)
    return bool(kind == "map_type")


_NUMBERS: dict[int, int] = {onnx.TensorProto.COMPLEX64: 2, onnx.TensorProto.COMPLEX128: 2}  # per element


def _check_tensor(tensor: onnx.TensorProto, shown: str) -> None:
    """A known type, no negative dimension, and as many values as the dimensions say."""
    problem = _tensor_problem(tensor)
    if problem:
        raise InputError(f"{shown} is not a valid model", note=f"the tensor '{tensor.name}' {problem}")


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    if any(dim < 0 for dim in tensor.dims):
        return "has a negative dimension"
    if tensor.data_type not in _TYPES:
        return "has no known type"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None  # `serial.view_tensor` compares the bytes when they are found
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        found, needed, unit = len(tensor.string_data), count, "strings"
    elif tensor.HasField("raw_data"):
        found, needed, unit = len(tensor.raw_data), -(-count * ir.DataType(tensor.data_type).bitwidth // 8), "bytes"
    else:
        bits = ir.DataType(tensor.data_type).bitwidth
        packed = -(-count * bits // 8) if bits < 6 else count * _NUMBERS.get(tensor.data_type, 1)
        found = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        needed, unit = packed, "values"
    return None if found == needed else f"holds {found} {unit} where its shape and type need {needed}"
