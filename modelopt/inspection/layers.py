"""Nodes with their weights and MACs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import macs
from modelopt.inspection.data import Layer, Macs, OpCount, OpMacs

Scope = Literal["main", "body", "function"]

_CARRIERS = frozenset({"Cast", "DequantizeLinear", "Identity", "Transpose"})
_CARRIED_AT_MOST = 4
_NARROW_INTEGERS = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT2,
        ir.DataType.UINT2,
    }
)


def holds_parameters(tensor: ir.TensorProtocol) -> bool:
    """Whether the elements of `tensor` count as parameters: floating-point, or integers of at most 8 bits."""
    return tensor.dtype.is_floating_point() or tensor.dtype in _NARROW_INTEGERS


def op_name(node: ir.Node) -> str:
    """``Conv``, or ``com.microsoft::Gelu`` for what is not a standard operator."""
    return node.op_type if node.domain in graph.STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"


def scoped_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Scope]]:
    """Every node with where it is; a body inside a function counts as the function."""
    for scope, _, in_function in graph.scopes(model):
        place: Scope = "function" if in_function else "main" if scope is model.graph else "body"
        for node in scope:
            yield node, place


def histogram(model: ir.Model) -> tuple[OpCount, ...]:
    """Operators by frequency, then by name."""
    counts: dict[str, dict[Scope, int]] = defaultdict(lambda: {"main": 0, "body": 0, "function": 0})
    for node, place in scoped_nodes(model):
        counts[op_name(node)][place] += 1
    ops = [
        OpCount(op=op, count=sum(places.values()), in_bodies=places["body"], in_functions=places["function"])
        for op, places in counts.items()
    ]
    return tuple(sorted(ops, key=lambda op: (-op.count, op.op)))


def layers(model: ir.Model) -> list[Layer]:
    """Nodes with weights or MACs, the largest first; shapes are taken as the values have them now."""
    found = [_layer(node, place) for node, place in scoped_nodes(model) if not _carries(node)]
    kept = [layer for layer in found if layer is not None]
    return sorted(kept, key=lambda layer: (-layer.weight_bytes, -(layer.macs or 0)))


def _layer(node: ir.Node, place: Scope) -> Layer | None:
    weights = [tensor for value in dict.fromkeys(node.inputs) if (tensor := stored(value)) and holds_parameters(tensor)]
    if not weights and not macs.counts(node):
        return None
    output = node.outputs[0] if node.outputs else None
    return Layer(
        name=node.name or (output.name if output is not None else None) or "",
        op=op_name(node),
        scope=place,
        output_shape=graph.dims(output),
        parameters=sum(tensor.size for tensor in weights),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        macs=macs.macs(node),
    )


def stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that `value` is, or is a dequantized, cast or transposed copy of; None for an activation.

    Initializers that a caller may override count here: they are stored in the file.
    """
    for _ in range(_CARRIED_AT_MOST):
        producer = None if value is None else value.producer()
        if value is None or producer is None or not _carries(producer):
            break
        value = producer.inputs[0] if producer.inputs else None
    if value is None:
        return None
    return graph.constant_tensor(value) or (value.const_value if value.producer() is None else None)


def _carries(node: ir.Node) -> bool:
    return node.op_type in _CARRIERS and node.domain in graph.STANDARD_DOMAINS


def total(model: ir.Model) -> Macs:
    """The MACs of all scopes, each node once; shapes are taken as the values have them now."""
    found: dict[str, list[int | None]] = defaultdict(list)
    for node in graph.all_nodes(model):
        if macs.counts(node):
            found[op_name(node)].append(macs.macs(node))
    by_op = [
        OpMacs(
            op=op,
            nodes=len(numbers),
            unknown_nodes=numbers.count(None),
            macs=sum(number for number in numbers if number is not None),
        )
        for op, numbers in found.items()
    ]
    known, unknown = sum(op.macs for op in by_op), sum(op.unknown_nodes for op in by_op)
    return Macs(
        total=None if unknown else known,
        known=known,
        unknown_nodes=unknown,
        by_op=tuple(sorted(by_op, key=lambda op: (-op.macs, op.op))),
    )
