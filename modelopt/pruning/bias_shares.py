"""What a constant channel adds to the sums of the node that reads it, moved into that node's bias.

``Σ_i W_ri · x_i + b_r`` with a constant x_j is ``Σ_{i≠j} W_ri · x_i + (b_r + W_rj · x_j)``. For a convolution this
holds only where each output position sums over the whole kernel: padding adds positions at the border that see zeros in
place of the constant, so there the constant must be zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.types import IEEE_FLOATS
from modelopt.patterns.convolution import is_huge
from modelopt.pruning.interval_rules import pads
from modelopt.pruning.weight_axes import Consumer


@dataclass(frozen=True)
class BiasPlace:
    """Where the bias of a sum is.

    Attributes:
        holder: The convolution or Gemm, or the Add behind a MatMul.
        index: Which of its inputs is the bias.
        like: A stored tensor that the holder reads, beside which a new bias may be put.
        bias: The bias now, float64 with the channels on its last axis; zeros where there is none.
        scale: The factor with which a share of the sum enters the bias.
    """

    holder: ir.Node
    index: int
    like: ir.Value
    bias: np.ndarray
    scale: float = 1.0


@dataclass(frozen=True)
class BiasShare:
    """A new bias for a node.

    Attributes:
        place: Where it goes.
        bias: The new bias, in the dtype of the weights.
    """

    place: BiasPlace
    bias: np.ndarray

    def store(self, names: graph.NameSource) -> None:
        """Give the node its new bias; an old one that others read too stays theirs."""
        holder, index = self.place.holder, self.place.index
        holder.resize_inputs(max(len(holder.inputs), index + 1))
        old = holder.inputs[index]
        if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
            graph.set_constant(old, self.bias)
            return
        stem = f"{self.place.like.name}_bias" if old is None else f"{old.name}"
        holder.replace_input_with(index, graph.constant_beside(old or self.place.like, holder, names(stem), self.bias))
        graph.drop_unused_constants([old])


def place_of(consumer: Consumer) -> BiasPlace | str:
    """Where the bias of a consumer is, or why it has none that can take the share of a constant, as a clause."""
    node, tensor = consumer.node, graph.constant_tensor(consumer.weight)
    if node.domain not in graph.STANDARD_DOMAINS or node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return f"{node.op_type} has no bias to take their numbers"
    if tensor is None or tensor.dtype not in IEEE_FLOATS:
        return f"the weights of {node.op_type} are of another type"
    if node.inputs[0] is not consumer.data or node.inputs[1] is not consumer.weight:
        return "they are on the right of the product"
    if len(tensor.shape) < 2:
        return f"{node.op_type} multiplies by a vector"
    size = tensor.shape.numpy()[1 - consumer.weight_axis] if consumer.weight_axis < 2 else 0
    if node.op_type == "MatMul":
        return _behind(node, size) if len(tensor.shape) == 2 else "it multiplies by several matrices"
    if node.op_type != "Gemm" and graph.attribute_int(node, "group", 1) != 1:
        return "it sums over groups"
    if node.op_type != "Gemm" and pads(node):
        return "the convolution pads with zeros, so that they count less at the borders"
    bias = _bias(graph.input_at(node, 2), size)
    if bias is None:
        return "the bias is not a constant with one number per channel"
    alpha, beta = (graph.attribute_float(node, name, 1.0) for name in ("alpha", "beta"))
    if beta == 0:
        return "the bias is multiplied by zero"
    return BiasPlace(node, 2, consumer.weight, bias, alpha / beta)


def _behind(node: ir.Node, size: int) -> BiasPlace | str:
    """The bias of a MatMul: the constant operand of the Add that alone reads it."""
    add = graph.sole_consumer(node.outputs[0])
    if add is None or not graph.is_standard(add, "Add") or add.graph is not node.graph:
        return "no constant is added to the product"
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    value = add.inputs[index]
    bias = _bias(value, size)
    if value is None or bias is None:
        return "no constant with one number per channel is added to the product"
    return BiasPlace(add, index, value, bias)


def _bias(value: ir.Value | None, size: int) -> np.ndarray | None:
    """A stored bias as float64 with `size` numbers on its last axis, and sizes of 1 before; None for any other."""
    if value is None:
        return np.zeros(size)
    tensor = graph.constant_tensor(value)
    if tensor is None or tensor.dtype not in IEEE_FLOATS or tensor.size not in {1, size}:
        return None
    array = tensor.numpy().astype(np.float64)
    if array.size == size and array.shape[-1:] != (size,):
        return None
    return np.broadcast_to(array, (*array.shape[:-1], size))


def why_too_large(consumer: Consumer, place: BiasPlace, numbers: np.ndarray) -> str | None:
    """Why a bias with the shares of these constants would not fit its dtype; None where it does."""
    weights = _matrix(consumer)
    dtype = weights.dtype
    sizes = np.abs(np.nan_to_num(numbers)) @ np.abs(weights.astype(np.float64)) * abs(place.scale) + np.abs(place.bias)
    if is_huge(sizes, dtype) or not sizes.max(initial=0.0) < float(np.finfo(dtype).max) / 4:
        return f"{dtype} does not hold a bias with their numbers"
    return None


def share_of(consumer: Consumer, place: BiasPlace, numbers: np.ndarray, kept: np.ndarray | None) -> BiasShare:
    """The bias with the shares of constants.

    Args:
        consumer: The node that sums.
        place: Where its bias is.
        numbers: The constant at each position of the summed axis, 0 for those that stay.
        kept: Which channels of the result stay; None for all.
    """
    weights = _matrix(consumer)
    bias = place.bias + place.scale * (numbers @ weights.astype(np.float64))
    return BiasShare(place, (bias if kept is None else bias[..., kept]).astype(weights.dtype))


def _matrix(consumer: Consumer) -> np.ndarray:
    """The weights, summed over the kernel: shape (positions of the summed axis, channels of the result)."""
    tensor = graph.constant_tensor(consumer.weight)
    if tensor is None:
        raise ValueError(f"'{consumer.weight.name}' is not constant")
    array = np.moveaxis(tensor.numpy(), consumer.weight_axis, 0)
    return np.asarray(
        array if array.ndim == 2 else array.reshape(*array.shape[:2], -1).sum(2, dtype=np.float64).astype(array.dtype)
    )
