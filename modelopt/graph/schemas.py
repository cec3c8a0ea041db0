"""What the ONNX operator specification asks of a node, as the tables of the onnx package have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx.defs
import onnx_ir as ir

from modelopt import graph

_ATTRIBUTE_TYPES = {
    getattr(onnx.defs.OpSchema.AttrType, one.name): one
    for one in ir.AttributeType
    if hasattr(onnx.defs.OpSchema.AttrType, one.name)
}
_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


def newest_opset() -> int:
    """The latest version of the standard operator set that the onnx package knows."""
    return int(onnx.defs.onnx_opset_version())


def why_malformed(node: ir.Node, opset: int) -> str | None:
    """What a standard operator lacks, has too much of, or has of another type.

    It is None where there is nothing, and where onnx does not know that opset.

    Args:
        node: A node of the standard domain.
        opset: The version of the standard operator set that it is written in.
    """
    schema = _schema(node.op_type, opset)
    if schema is None:
        return None
    inputs, outputs = len(node.inputs), len(node.outputs)
    if not schema.min_input <= inputs <= schema.max_input:
        return f"{node.op_type} takes {_count(schema.min_input, schema.max_input)} inputs and has {inputs}"
    if not schema.min_output <= outputs <= schema.max_output:
        return f"{node.op_type} makes {_count(schema.min_output, schema.max_output)} outputs and has {outputs}"
    for formal, value in zip(schema.inputs, node.inputs, strict=False):
        if value is None and formal.option == _SINGLE:
            return f"{node.op_type} has no input '{formal.name}'"
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in node.attributes:
            return f"{node.op_type} has no attribute '{name}'"
        given = node.attributes.get(name)
        wanted = _ATTRIBUTE_TYPES[attribute.type]
        if given is not None and not given.is_ref() and given.type != wanted:
            return f"{node.op_type} takes {wanted.name} as attribute '{name}' and has {given.type.name}"
    return None


def propagates_data(node: ir.Node, opset: int) -> bool:
    """Whether onnx's shape inference computes the values of this node's outputs as well as their shapes."""
    schema = _schema(node.op_type, opset) if node.domain in graph.STANDARD_DOMAINS else None
    return schema is not None and schema.has_data_propagation_function


@dataclass(frozen=True)
class TypeVariables:
    """How the specification ties the types of a node's inputs and outputs together.

    Attributes:
        inputs: One for each input that the node has: a type variable such as ``"T"``, or a type such as
            ``"tensor(float)"``.
        outputs: The same for its outputs.
        allowed: The types that each variable may stand for.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: Mapping[str, frozenset[str]]


def type_variables(node: ir.Node, opset: int) -> TypeVariables | None:
    """The type variables of a node of the standard domain; None where onnx does not know the operator in that opset."""
    schema = _schema(node.op_type, opset)
    if schema is None:
        return None
    return TypeVariables(
        _formals([formal.type_str for formal in schema.inputs], len(node.inputs)),
        _formals([formal.type_str for formal in schema.outputs], len(node.outputs)),
        {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints},
    )


def _formals(written: list[str], count: int) -> tuple[str, ...]:
    """One per argument: the last formal parameter repeats where it is variadic."""
    return tuple(written[min(index, len(written) - 1)] for index in range(count))


@cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    if not 0 < opset <= onnx.defs.onnx_opset_version():
        return None
    try:
        return onnx.defs.get_schema(op_type, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return None


def _count(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most > 2**30 else f"{least} to {most}"
