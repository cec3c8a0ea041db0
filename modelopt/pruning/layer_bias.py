"""The bias of a layer: where it is stored, and how a shift of the outputs is added to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.summing_layer import SummingLayer


@dataclass(frozen=True)
class LayerBias:
    """A bias that is there, or for which there is a place.

    Attributes:
        node: The node that adds it: the layer itself, or the Add behind a MatMul.
        index: Which input of `node` it is.
        factor: What the node multiplies it by.
        like: A constant beside which a new one is stored.
    """

    node: ir.Node
    index: int
    factor: float
    like: ir.Value

    def add(self, shift: np.ndarray, names: graph.NameSource) -> None:
        """Add `shift`, of shape (N,) or of the bias's; a bias that other nodes read too gets a copy of its own."""
        value = self.node.inputs[self.index] if self.index < len(self.node.inputs) else None
        old, like = graph.constant(value), graph.constant(self.like)
        dtype = np.dtype(np.float32) if like is None else like.dtype
        shift = shift / self.factor
        new = shift if old is None else old.astype(np.float64) + shift.reshape(_shape(old, shift))
        new = new.astype(dtype if old is None else old.dtype)
        if value is not None and old is not None and len(value.uses()) == 1 and new.shape == old.shape:
            graph.set_constant(value, new)
            return
        stem = f"{graph.name_of(self.node)}_bias"
        self.node.resize_inputs(max(len(self.node.inputs), self.index + 1))
        self.node.replace_input_with(self.index, graph.constant_beside(self.like, self.node, names(stem), new))


def _shape(old: np.ndarray, shift: np.ndarray) -> tuple[int, ...]:
    """The shape in which a shift of the last axis, or one of the bias's shape, meets a bias."""
    if shift.shape == old.shape:
        return shift.shape
    return (*(1,) * (old.ndim - 1), shift.size) if old.ndim else (shift.size,)


def of(layer: SummingLayer) -> LayerBias | None:
    """Where the bias of a layer is or can be; None where it cannot be changed."""
    node = layer.node
    if node.op_type != "MatMul":
        factor = graph.attribute_float(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
        value = graph.input_at(node, 2)
        fits = value is None or _is_row(value)
        return LayerBias(node, 2, factor, layer.weight) if fits and factor != 0 else None
    if layer.made_axis != -1:
        return None
    add = graph.sole_consumer(node.outputs[0])
    if add is None or not graph.is_standard(add, "Add"):
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    value = add.inputs[index]
    if value is None or not _is_row(value) or graph.constant_tensor(value) is None:
        return None
    return LayerBias(add, index, 1.0, value)


def _is_row(value: ir.Value) -> bool:
    """Whether a constant has numbers along its last axis only."""
    tensor = graph.constant_tensor(value)
    if tensor is None:
        return False
    sizes = tensor.shape.numpy()
    return all(size == 1 for size in sizes[:-1])
