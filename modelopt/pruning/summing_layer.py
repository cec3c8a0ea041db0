"""Convolutions and products by stored weights, seen as one thing: rows of inputs times a matrix, plus a bias.

    outputs = inputs · W + b        inputs (rows, groups, K), W (groups, K, N), outputs (rows, groups, N)

The rows of a convolution are those of im2col: one for each output position, padding included. So what is fitted to rows
is exact at the edges of images too, and a bias may change whatever the padding is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.quant.numerics import im2col

Choice = Callable[[int], np.ndarray]
"""Chooses rows: from how many there are, the indices of those to look at."""


@dataclass(frozen=True)
class SummingLayer:
    """A Conv, Gemm or MatMul in the main graph with a stored weight.

    Attributes:
        node: The node.
        data: What it multiplies its weight by.
        weight: The weight.
        data_axis: The axis of `data` that it sums over, from the end for products.
        made_axis: The axis of its output that the weight makes.
    """

    node: ir.Node
    data: ir.Value
    weight: ir.Value
    data_axis: int
    made_axis: int

    @property
    def is_convolution(self) -> bool:
        """Whether it is a Conv."""
        return self.node.op_type == "Conv"

    @property
    def groups(self) -> int:
        """Groups of channels, each with a matrix of its own."""
        return graph.attribute_int(self.node, "group", 1) if self.is_convolution else 1

    @property
    def array(self) -> np.ndarray:
        """The weight as it is stored."""
        array = graph.constant(self.weight)
        if array is None:
            raise ValueError(f"'{self.weight.name}' is not constant")
        return array

    def inputs(self, data: np.ndarray, choose: Choice) -> np.ndarray:
        """The rows that meet the weight: shape (rows, groups, K), in the dtype of `data`."""
        if self.is_convolution:
            window = im2col.window_of(self.node, self.array.shape[2:])
            rows = im2col.rows(data, window, choose)
            return rows.reshape(len(rows), self.groups, -1)
        rows = _rows_of(data, self.data_axis)
        return rows[choose(len(rows)), None]

    def outputs(self, made: np.ndarray, choose: Choice) -> np.ndarray:
        """The output at the same rows: shape (rows, groups, N)."""
        rows = _rows_of(made, self.made_axis)
        return rows[choose(len(rows))].reshape(-1, self.groups, rows.shape[1] // self.groups)

    def matrix(self) -> np.ndarray:
        """The weight as float64 (groups, K, N); of a Gemm with its alpha."""
        array = self.array.astype(np.float64)
        if self.is_convolution:
            return np.swapaxes(array.reshape(self.groups, array.shape[0] // self.groups, -1), 1, 2)
        return (array.T if self._is_mirrored else array)[None] * self._alpha

    def stored(self, matrix: np.ndarray) -> np.ndarray:
        """What `matrix` returns, as the weight is stored: same shape and dtype as now."""
        array = self.array
        if self.is_convolution:
            plain = np.swapaxes(matrix, 1, 2).reshape(array.shape)
        else:
            plain = (matrix[0].T if self._is_mirrored else matrix[0]) / self._alpha
        return np.asarray(plain, array.dtype)

    def block(self, positions: np.ndarray) -> np.ndarray:
        """Which of the K columns belong to these positions of the summed axis; of a layer with one group."""
        taps = math.prod(self.array.shape[2:]) if self.is_convolution else 1
        return (positions[:, None] * taps + np.arange(taps)).reshape(-1)

    @property
    def _alpha(self) -> float:
        return graph.attribute_float(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0

    @property
    def _is_mirrored(self) -> bool:
        """Whether the weight is stored as (N, K)."""
        if self.node.op_type == "Gemm":
            return bool(graph.attribute_int(self.node, "transB", 0))
        return self.data is self.node.inputs[1]


def _rows_of(array: np.ndarray, axis: int) -> np.ndarray:
    last = np.moveaxis(array, axis, -1)
    return last.reshape(-1, last.shape[-1])


def summing_layer(node: ir.Node) -> SummingLayer | Mismatch:
    """The layer of a node, or why it is none that can be fitted."""
    if node.domain not in graph.STANDARD_DOMAINS or node.op_type not in {"Conv", "Gemm", "MatMul"}:
        return Mismatch(f"{node.op_type} is not fitted")
    stored = [graph.constant_tensor(value) is not None for value in node.inputs[:2]]
    if all(stored) or not any(stored):
        return Mismatch("it does not multiply a computed value by a stored one")
    index = stored.index(True)
    weight, data = node.inputs[index], node.inputs[1 - index]
    tensor = graph.constant_tensor(weight)
    if weight is None or data is None or tensor is None:
        return Mismatch("an operand is missing")
    if len(weight.uses()) > 1:
        return Mismatch("its weight is shared")
    if node.op_type == "Conv":
        return SummingLayer(node, data, weight, 1, 1) if index == 1 else Mismatch("its weight is not stored")
    if len(tensor.shape) != 2:
        return Mismatch("its weight is no matrix")
    if node.op_type == "Gemm" and (index == 0 or graph.attribute_int(node, "transA", 0)):
        return Mismatch("it transposes its input")
    return SummingLayer(node, data, weight, -1, -1) if index == 1 else SummingLayer(node, data, weight, -2, -2)
