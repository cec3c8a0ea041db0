"""The weights of a model that can be pruned, and the axis that each output sums over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Weight:
    """A constant operand of a node that multiplies by it.

    Attributes:
        value: The operand.
        tensor: What it holds.
        node: The node.
        index: Which input of `node` it is.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    node: ir.Node
    index: int

    @property
    def label(self) -> str:
        """Its name in messages: the tensor's, and the node's."""
        return f"{self.value.name} of {graph.label(self.node)}"


def all_operands(model: ir.Model) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """(node, index of the input, value) of each weight operand in every scope, constant or not, in the model's order.

    These are the kernels of Conv and ConvTranspose, the constant operands of Gemm and MatMul, and W and R of LSTM, GRU
    and RNN; not biases.
    """
    for node in graph.all_nodes(model):
        for index in _operands(node):
            value = graph.input_at(node, index)
            if value is not None:
                yield node, index, value


def _operands(node: ir.Node) -> tuple[int, ...]:
    if node.domain not in graph.STANDARD_DOMAINS:
        return ()
    if node.op_type in {"Conv", "ConvTranspose"}:
        return (1,)
    if node.op_type in {"Gemm", "MatMul"}:
        # A product of two variables, as in attention, has no weight.
        return tuple(index for index in (0, 1) if _is_stored(node.inputs[index]))
    return (1, 2) if node.op_type in _RECURRENT else ()


def _is_stored(value: ir.Value | None) -> bool:
    return value is not None and (graph.constant_tensor(value) is not None or value.is_initializer())


def reduction_rows(array: np.ndarray, weight: Weight) -> np.ndarray:
    """`array`, which has the weight's shape, as (rows, k): a row holds the numbers that one output sums over.

    ======================  =====================  =======================================
    operand                 shape                  rows
    ======================  =====================  =======================================
    Conv W                  (C_out, C_in/g, k…)    (C_out, C_in/g · k…)
    ConvTranspose W         (C_in, C_out/g, k…)    (g · C_out/g · k…, C_in/g)
    Gemm B (A: mirrored)    (K, N), transB (N, K)  (N, K)
    MatMul B (A: mirrored)  (…, K, N)              (… · N, K)
    LSTM, GRU, RNN W and R  (dirs, gates · H, k)   (dirs · gates · H, k)
    ======================  =====================  =======================================
    """
    node = weight.node
    if node.op_type == "Conv":
        return array.reshape(array.shape[0], -1)
    if node.op_type == "ConvTranspose":
        group = graph.attribute_int(node, "group", 1)
        split = array.reshape(group, array.shape[0] // group, -1)
        return np.moveaxis(split, 1, -1).reshape(-1, split.shape[1])
    last = np.moveaxis(array, _reduction_axis(node, weight.index), -1)
    return last.reshape(-1, last.shape[-1])


def pattern_rows(array: np.ndarray, weight: Weight) -> np.ndarray:
    """`array`, which has the weight's shape, as (rows, c): N:M patterns hold in consecutive numbers of a row.

    TensorRT's sparse kernels group the input channels of a convolution at each kernel position,
    ``W[k, 4i:4i+4, r, s]``, and what a product sums over (NVIDIA TensorRT Developer Guide, "Sparsity"). So a row of a
    Conv holds the input channels of one output channel at one kernel position, and a row of any other operand is that
    of `reduction_rows`.
    """
    if weight.node.op_type == "Conv":
        last = np.moveaxis(array, 1, -1)
        return last.reshape(-1, last.shape[-1])
    return reduction_rows(array, weight)


def _reduction_axis(node: ir.Node, index: int) -> int:
    if node.op_type == "Gemm":
        transposed = graph.attribute_int(node, "transB" if index else "transA", 0) == 1
        return -1 if transposed == bool(index) else -2
    return -2 if node.op_type == "MatMul" and index else -1
