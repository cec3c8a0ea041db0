"""How large a result will be, from shapes and small integers alone: nothing is allocated here.

Everything is a Python int, so that a dimension of 2^62 makes a large number and not an overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.call import Call, NotEvaluable, Size

Shape = tuple[int, ...]
_Dim = TypeVar("_Dim")


def shape_part(node: ir.Node, dims: Sequence[_Dim]) -> Sequence[_Dim]:
    """What a Shape gives of the dimensions of its input: from opset 15 on, those from `start` to `end`.

    Both bounds count from the end when negative, and are clamped.
    """
    return dims[graph.attribute_int(node, "start", 0) : graph.attribute_int(node, "end", len(dims))]


def broadcast(*shapes: Sequence[int]) -> Shape:
    """The common shape under ONNX's multidirectional broadcasting."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_common(dims) for dims in zip(*padded, strict=True))


def _common(dims: Sequence[int]) -> int:
    others = {dim for dim in dims if dim != 1}
    if len(others) > 1:
        raise NotEvaluable(f"the dimensions {' and '.join(map(str, sorted(others)))} do not broadcast")
    return others.pop() if others else 1


def count(shape: Sequence[int]) -> int:
    """The number of elements of `shape`."""
    if any(dim < 0 for dim in shape):
        raise NotEvaluable("a dimension is negative")
    return math.prod(shape)


def broadcast_bytes(itemsize: int | None = None) -> Size:
    """Elementwise with broadcasting; `itemsize` None keeps the largest input's."""

    def size(call: Call) -> int:
        arrays = [array for array in call.inputs if array is not None]
        width = itemsize or max(array.itemsize for array in arrays)
        return count(broadcast(*(array.shape for array in arrays))) * width

    return size


def as_input(call: Call) -> int:
    """No more than the first input."""
    return call.array(0).nbytes


def as_all_inputs(call: Call) -> int:
    """No more than the inputs together."""
    return sum(array.nbytes for array in call.arrays())


def per_element(itemsize: int) -> Size:
    """`itemsize` bytes for each element of the first input."""
    return lambda call: call.array(0).size * itemsize


def of_shape(shape: Sequence[int], array: np.ndarray) -> int:
    """Bytes of an array of `shape` with the element type of `array`."""
    return count(shape) * array.itemsize
