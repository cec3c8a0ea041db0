"""What a weight is multiplied by: the value to observe, and its numbers as rows in the order of the weight's rows.

A weight as (rows, k) by `weights.reduction_rows` gives the outputs ``weight · x`` for rows x of k numbers. Where a
convolution has groups, or a recurrent operator directions, each block of consecutive rows of the weight has rows x of
its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.operators import RECURRENT
from modelopt.graph.types import FLOATS
from modelopt.pruning.weights import Weight
from modelopt.quant.numerics import im2col

MOST_INPUTS = 4608
"""The most numbers that one output may sum over for a Gram matrix, which has the square of that; a guess."""


class _Layout(Enum):
    LAST = "last axis"
    BEFORE_LAST = "axis before the last"
    CHANNELS = "axis 1"
    WINDOW = "window of a convolution"
    STATES = "states of a recurrent operator"


@dataclass(frozen=True)
class InputRows:
    """How to read the rows that a weight is multiplied by.

    Attributes:
        name: The value to observe.
        groups: Blocks of consecutive rows of the weight, each with rows x of its own.
        width: k, the length of a row.
    """

    name: str
    groups: int
    width: int
    _layout: _Layout
    _window: im2col.Window | None = None

    def of(self, array: np.ndarray, most: int) -> np.ndarray:
        """The rows of one observed array, at most `most` of them, drawn by a fixed seed: shape ``(n, groups, k)``.

        Raises:
            ValueError: The array does not have the shape that the weight needs.
        """
        if self._layout is _Layout.WINDOW and self._window is not None:
            rows = im2col.rows(array, self._window, im2col.at_random(most))
            return rows.reshape(len(rows), self.groups, self.width)
        axis = {_Layout.BEFORE_LAST: -2, _Layout.CHANNELS: 1}.get(self._layout, -1)
        if self._layout is _Layout.STATES:  # (sequence, directions, batch, hidden)
            array, axis = np.moveaxis(array, 1, -2), -1
        last = np.moveaxis(array, axis if array.ndim > 1 else -1, -1)
        rows = last.reshape(-1, self.groups, self.width)
        return rows[im2col.at_random(most)(len(rows))] if len(rows) > most else rows


def rows_of(weight: Weight, main: ir.Graph) -> InputRows | str:
    """What `weight` is multiplied by; a text says why that cannot be observed.

    Args:
        weight: A weight of any scope.
        main: The main graph, whose values can be observed.
    """
    node = weight.node
    if node.graph is not main:
        return "it is inside a control-flow body or a function"
    shape = tuple(weight.tensor.shape.numpy())
    if node.op_type in RECURRENT:
        return _recurrent(weight, shape)
    if node.op_type in {"Conv", "ConvTranspose"}:
        return _convolution(node, shape)
    if len(shape) != 2:
        return "it is a batch of matrices"
    other = node.inputs[1 - weight.index]
    transposed = node.op_type == "Gemm" and graph.attribute_int(node, "transA" if weight.index else "transB", 0) == 1
    layout = _Layout.LAST if transposed != bool(weight.index) else _Layout.BEFORE_LAST
    transposed_weight = node.op_type == "Gemm" and graph.attribute_int(node, "transB" if weight.index else "transA", 0)
    width = shape[1] if bool(transposed_weight) == bool(weight.index) else shape[0]
    return _checked(other, 1, width, layout)


def _convolution(node: ir.Node, shape: tuple[int, ...]) -> InputRows | str:
    groups = graph.attribute_int(node, "group", 1)
    if node.op_type == "ConvTranspose":
        return _checked(node.inputs[0], groups, shape[0] // groups, _Layout.CHANNELS)
    width = int(np.prod(shape[1:]))
    return _checked(node.inputs[0], groups, width, _Layout.WINDOW, im2col.window_of(node, shape[2:]))


def _recurrent(weight: Weight, shape: tuple[int, ...]) -> InputRows | str:
    node = weight.node
    if weight.index == 1:
        return _checked(node.inputs[0], 1, shape[2], _Layout.LAST)
    if graph.attribute_int(node, "layout", 0):
        return "its operator has the batch first"
    if not node.outputs or not node.outputs[0].name:
        return "its operator does not give the states of all steps"
    return _checked(node.outputs[0], shape[0], shape[2], _Layout.STATES)


def _checked(
    value: ir.Value | None, groups: int, width: int, layout: _Layout, window: im2col.Window | None = None
) -> InputRows | str:
    if value is None or not value.name or graph.constant_tensor(value) is not None:
        return "it is multiplied by a constant"
    if value.dtype is not None and value.dtype not in FLOATS:
        return f"it is multiplied by {value.dtype.name.lower()}"
    if width > MOST_INPUTS:
        return f"each output sums over {width:,} inputs: their Gram matrix would take long"
    return InputRows(value.name, groups, width, layout, window)
