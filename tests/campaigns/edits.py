"""Ways to change a model that planted bugs are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from modelopt import graph

Edit = Callable[[ir.Model], None]


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in graph.all_nodes(model) if any(out.name == name for out in node.outputs))


def input_of(model: ir.Model, name: str, index: int) -> ir.Value:
    value = node_of(model, name).inputs[index]
    if value is None:
        raise ValueError(f"{name} lacks input {index}")
    return value


def weight(name: str, index: int, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Change a constant."""

    def edit(model: ir.Model) -> None:
        value = input_of(model, name, index)
        array = graph.constant(value)
        if array is None:
            raise ValueError(f"input {index} of {name} is not constant")
        changed = np.asarray(change(np.array(array)))
        if changed.shape == array.shape and changed.dtype == array.dtype and np.array_equal(changed, array):
            raise ValueError(f"nothing changed in {name}")
        graph.set_constant(value, changed)

    return edit


def attribute(name: str, key: str, value: Any) -> Edit:
    """Set an attribute; None removes it."""

    def edit(model: ir.Model) -> None:
        node = node_of(model, name)
        node.attributes.pop(key, None)
        if value is not None:
            node.attributes.update(ir.node("X", [], {key: value}).attributes)

    return edit


def operator(name: str, op_type: str) -> Edit:
    """Make it another operator."""

    def edit(model: ir.Model) -> None:
        node_of(model, name).op_type = op_type

    return edit


def rewire(name: str, index: int, source: str) -> Edit:
    """Let it read another value."""

    def edit(model: ir.Model) -> None:
        values = {out.name: out for node in model.graph for out in node.outputs} | dict(model.graph.initializers)
        node_of(model, name).replace_input_with(index, values[source])

    return edit


def swap_inputs(name: str) -> Edit:
    """Swap the first two operands."""

    def edit(model: ir.Model) -> None:
        node = node_of(model, name)
        left, right = node.inputs[:2]
        node.replace_input_with(0, right)
        node.replace_input_with(1, left)

    return edit


def bypass(name: str, index: int = 0) -> Edit:
    """Remove it as if it did nothing."""

    def edit(model: ir.Model) -> None:
        node = node_of(model, name)
        graph.replace_value(node.outputs[0], input_of(model, name, index))
        graph.remove_with_constants(node)

    return edit


def drop_input(name: str, index: int) -> Edit:
    """Forget an optional input."""

    def edit(model: ir.Model) -> None:
        node = node_of(model, name)
        node.replace_input_with(index, None)
        node.resize_inputs(index)

    return edit


def share(name: str, index: int, other: str) -> Edit:
    """Take another tensor of the same shape for it."""
    return rewire(name, index, other)
