"""Embedding tables in int8: a quarter of the bytes. The rows that Gather finds are dequantized, and used in float.

    y = Gather(table, indices)    becomes    y = DequantizeLinear(Gather(integers, indices), scale, 0)

There is one scale for each column, so that any row that is found has all scales.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static.plan import NodeChoice, Role

_LEAST = 4096
"""Elements; a smaller table saves less than its DequantizeLinear costs (an estimate)."""


def candidate(node: ir.Node) -> NodeChoice | str | None:
    """The choice for a Gather from a constant table, or the reason against it; None for another node."""
    if not graph.is_standard(node, "Gather"):
        return None
    table = node.inputs[0]
    tensor = graph.constant_tensor(table)
    if table is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) < 2:
        return None
    if tensor.size < _LEAST:
        return f"its table has fewer than {_LEAST} elements"
    if not np.isfinite(tensor.numpy()).all():
        return "its table holds NaN or Inf"
    return NodeChoice(node, Role.TABLE, (), table, column_axis(node, len(tensor.shape)))


def column_axis(node: ir.Node, rank: int) -> int | None:
    """The axis with one scale for each index, for a Gather from a table of this rank; None where it gathers columns."""
    gathered = graph.attribute_int(node, "axis", 0) % rank
    return None if gathered == rank - 1 else rank - 1


def look_up(node: ir.Node, stored: tuple[ir.Value, ...], *, per_column: bool, names: graph.NameSource) -> None:
    """Make a Gather read integers, and dequantize what it finds.

    Args:
        node: The Gather; it becomes the DequantizeLinear.
        stored: The int8 table, its scale and its zero point.
        per_column: There is a scale for each index of the last axis.
        names: Free names.
    """
    table, scale, zero_point = stored
    old = node.outputs[0]
    found = ir.Value(name=names(f"{old.name}_quantized"), shape=old.shape, type=ir.TensorType(ir.DataType.INT8))
    name = names(f"{node.name or old.name}_Gather")
    gather = ir.Node("", "Gather", [table, node.inputs[1]], tuple(node.attributes.values()), outputs=[found], name=name)
    graph.scope_of(node).insert_before(node, [gather])
    graph.become(node, "DequantizeLinear", [found, scale, zero_point], [ir.AttrInt64("axis", -1)] if per_column else [])
