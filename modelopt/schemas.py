"""What the ONNX operator specification asks of a node, as the tables of the onnx package have it."""

from __future__ import annotations

from functools import cache

import onnx.defs
import onnx_ir as ir

_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


def why_malformed(node: ir.Node, opset: int) -> str | None:
    """What a standard operator lacks or has too much of, else None; also None where onnx does not know that opset.

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
    for formal, given in zip(schema.inputs, node.inputs, strict=False):
        if given is None and formal.option == _SINGLE:
            return f"{node.op_type} has no input '{formal.name}'"
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in node.attributes:
            return f"{node.op_type} has no attribute '{name}'"
    return None


def propagates_data(node: ir.Node, opset: int) -> bool:
    """Whether onnx's shape inference computes the values of this node's outputs as well as their shapes."""
    schema = _schema(node.op_type, opset) if node.domain in {"", "ai.onnx"} else None
    return schema is not None and schema.has_data_propagation_function


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
