"""The gate: what a parsed model may hold. Pure Python; nothing native has seen the file yet but protobuf's parser."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from modelopt.core.errors import InputError, Refused
from modelopt.graph.types import MAP_MARK
from modelopt.io.model_proto import attribute_protos, graph_protos, inner_type, node_protos, tensor_protos


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
    for scope in graph_protos(proto):
        if scope.sparse_initializer:
            raise Refused(f"{shown} holds sparse initializers, which modelopt would lose")
        for tensor in scope.initializer:
            _check_tensor(tensor, shown)
    _check_types(proto, shown)
    _refuse_doubled_attributes(proto, shown)
    for attribute in attribute_protos(proto):
        _refuse_unsupported_attribute(attribute, shown)


_TYPES = frozenset(dtype.value for dtype in ir.DataType) - {onnx.TensorProto.UNDEFINED}
"""The element types that there are."""

_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})
"""Attributes of ONNX's own operators that name an element type."""


def _check_types(proto: onnx.ModelProto, shown: str) -> None:
    """Every type that is stated names an element type; a function's may be left open, as onnxruntime permits."""
    for scope in graph_protos(proto):
        for kind, values in (("input", scope.input), ("output", scope.output), ("value", scope.value_info)):
            for value in values:
                _check_type(f"the {kind} '{value.name}'", value.type, shown)
    for function in proto.functions:
        for value in function.value_info:
            if _states_element_type(value.type):
                _check_type(f"the value '{value.name}' of the function '{function.name}'", value.type, shown)
    for node in node_protos(proto):
        for attribute in node.attribute:
            what = f"the attribute '{attribute.name}' of {node.op_type} '{node.name or ''.join(node.output[:1])}'"
            for type_ in (attribute.tp, *attribute.type_protos):
                _check_type(what, type_, shown)
            is_number = attribute.type == onnx.AttributeProto.INT and not attribute.ref_attr_name
            if node.domain in {"", "ai.onnx"} and attribute.name in _TYPE_ATTRIBUTES and is_number:
                _check_element_type(what, attribute.i, shown)


_KEY_TYPES = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "STRING")
)
"""What the keys of a map may be."""


def _check_type(what: str, type_: onnx.TypeProto, shown: str) -> None:
    if type_.denotation.startswith(MAP_MARK):
        raise InputError(
            f"{shown} is not a valid model", note=f"{what} has a denotation that modelopt keeps for itself"
        )
    if type_.WhichOneof("value") == "map_type" and type_.map_type.key_type not in _KEY_TYPES:
        raise InputError(f"{shown} is not a valid model", note=f"{what} is a map whose keys are no integers or strings")
    inner = inner_type(type_)
    if inner is not None:
        _check_type(what, inner, shown)
    elif type_.WhichOneof("value") in {"tensor_type", "sparse_tensor_type"}:
        _check_element_type(what, getattr(type_, type_.WhichOneof("value") or "").elem_type, shown)


def _check_element_type(what: str, number: int, shown: str) -> None:
    if number in _TYPES:
        return
    found = "UNDEFINED" if number == onnx.TensorProto.UNDEFINED else f"{number}, which ONNX does not know"
    raise InputError(
        f"{shown} is not a valid model",
        note=f"{what} has the element type {found}",
        hint="export the model again, with the types of all inputs and outputs",
    )


def _states_element_type(type_: onnx.TypeProto) -> bool:
    """Whether a type names an element type, in sequences and maps too."""
    inner = inner_type(type_)
    if inner is not None:
        return _states_element_type(inner)
    return bool(type_.tensor_type.elem_type or type_.sparse_tensor_type.elem_type)


def _refuse_doubled_attributes(proto: onnx.ModelProto, shown: str) -> None:
    """Readers of the file disagree on which of the two counts."""
    for node in node_protos(proto):
        names = {attribute.name for attribute in node.attribute}
        if len(names) < len(node.attribute):
            doubled = next(name for name in sorted(names) if sum(one.name == name for one in node.attribute) > 1)
            what = f"{node.op_type} '{node.name or ''.join(node.output[:1])}'"
            raise InputError(f"{shown} is not a valid model", note=f"{what} has the attribute '{doubled}' twice")


def _refuse_unsupported_attribute(attribute: onnx.AttributeProto, shown: str) -> None:
    if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
        raise Refused(f"{shown} holds an attribute without a type, which modelopt would lose: '{attribute.name}'")
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise Refused(f"{shown} holds a sparse tensor: the attribute '{attribute.name}'")
    for tensor in tensor_protos(attribute):
        _check_tensor(tensor, shown)


_MOST_ELEMENTS = 2**59
"""An empty tensor whose other dimensions make so many elements has a shape that numpy does not take."""

_NUMBERS: dict[int, int] = {onnx.TensorProto.COMPLEX64: 2, onnx.TensorProto.COMPLEX128: 2}  # per element


_MAX_RANK = 64
"""How many dimensions numpy takes."""


def _check_tensor(tensor: onnx.TensorProto, shown: str) -> None:
    """A known type, no negative dimension, and as many values as the dimensions say."""
    problem = _tensor_problem(tensor)
    if problem:
        raise InputError(f"{shown} is not a valid model", note=f"the tensor '{tensor.name}' {problem}")


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    if any(dim < 0 for dim in tensor.dims):
        return "has a negative dimension"
    if 0 in tensor.dims and math.prod(dim or 1 for dim in tensor.dims) >= _MOST_ELEMENTS:
        return "has dimensions that no tensor can have"
    if tensor.data_type not in _TYPES:
        return "has no known type"
    if len(tensor.dims) > _MAX_RANK:
        return f"has {len(tensor.dims)} dimensions, and numpy takes {_MAX_RANK}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None  # `tensor_slots.view_tensor` compares the bytes when they are found
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
