"""The nodes that a search leaves out or tries alone, and the patterns that name them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from modelopt import graph
from modelopt.passes.base import Pass
from modelopt.quant.static.kernels import KERNELS


def changed(before: ir.Model, after: ir.Model, *, tables: bool = False) -> list[str]:
    """The convolutions and products of `before` that do not compute with a float32 weight in `after`, in graph order.

    They are integers there, or half precision, or have weights of few bits.

    Args:
        before: The float model.
        after: What a pass made of it.
        tables: Name look-ups in tables, too.
    """
    left = {graph.name_of(node) for node in graph.all_nodes(after) if _is_float(node, tables=tables)}
    names = [graph.name_of(node) for node in graph.all_nodes(before) if _is_float(node, tables=tables)]
    return [name for name in names if name not in left]


def has_tables(model: ir.Model) -> bool:
    """Whether the model looks rows of a float32 table up."""
    return any(_is_float_table(node) for node in graph.all_nodes(model))


def without(step: Any, names: Iterable[str]) -> Pass:
    """The pass `step` with these nodes left in float."""
    made: Pass = dataclasses.replace(step, exclude=(*step.exclude, *map(_exactly, names)))
    return made


def only(step: Any, names: Iterable[str]) -> Pass:
    """The pass `step` for these nodes alone, whether or not it pays there."""
    options: dict[str, Any] = {"include": tuple(map(_exactly, names))}
    if hasattr(step, "everywhere"):
        options["everywhere"] = True
    made: Pass = dataclasses.replace(step, **options)
    return made


def _exactly(name: str) -> str:
    """The pattern that names this node and no other."""
    return f"re:{re.escape(name)}"


def _is_float(node: ir.Node, *, tables: bool) -> bool:
    return _is_float_kernel(node) or (tables and _is_float_table(node))


def _is_float_table(node: ir.Node) -> bool:
    if not graph.is_standard(node, "Gather"):
        return False
    table = graph.constant_tensor(node.inputs[0])
    return table is not None and table.dtype == ir.DataType.FLOAT and len(table.shape) > 1


def _is_float_kernel(node: ir.Node) -> bool:
    if node.op_type not in KERNELS or node.domain not in graph.STANDARD_DOMAINS or len(node.inputs) < 2:
        return False
    weight = graph.constant_tensor(node.inputs[1])
    return weight is not None and weight.dtype == ir.DataType.FLOAT
