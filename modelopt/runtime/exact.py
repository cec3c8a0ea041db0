"""A model that computes the same, and whose products do not saturate on x86 without VNNI: s8 weights become u8.

There ``vpmaddubsw`` adds two products of u8 × s8 in 16 bits and saturates; kernels of u8 × u8 are exact. A weight and
its zero point that are both raised by 128 stand for the same numbers, so on any other machine nothing changes.

onnxruntime's own ``session.x64quantprecision`` does the same while it loads. With release 1.32 it does not load where
two kernels share a weight or a zero point, and it leaves out what If, Loop and Scan bodies read from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.io import serialize

_SHIFT = 128
_READS_FLOAT_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class _Place(NamedTuple):
    """Which inputs of a kernel are a weight, its zero point, its scale, and the zero point of what it multiplies."""

    weight: int
    zero_point: int
    scale: int | None = None
    other: int | None = None


_PLACES: dict[str, tuple[_Place, ...]] = {
    "DequantizeLinear": (_Place(0, 2, scale=1),),
    "QLinearConv": (_Place(3, 5, scale=4, other=2),),
    "QLinearMatMul": (_Place(3, 5, scale=4, other=2),),
    "QGemm": (_Place(3, 5, scale=4, other=2),),
    "ConvInteger": (_Place(1, 3, other=2),),
    "MatMulInteger": (_Place(1, 3, other=2),),
    "MatMulIntegerToFloat": (_Place(1, 5, scale=3, other=4),),
    "DynamicQuantizeMatMul": (_Place(1, 3, scale=2),),
    "QAttention": (_Place(1, 7, scale=4, other=6),),
    "DynamicQuantizeLSTM": (_Place(1, 9, scale=8), _Place(2, 11, scale=10)),
}


def model_bytes(path: Path) -> bytes | None:
    """The model in a file with u8 weights; None where no kernel multiplies by constant s8 ones.

    Args:
        path: The model file, already through io's gate. External data that stay as they are stay beside it.
    """
    model = serialize.model_of(onnx.load(path, load_external_data=False))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return serialize.proto_of(model).SerializeToString() if unsigned_weights(model) else None


def unsigned_weights(model: ir.Model) -> int:
    """Turn constant s8 weights of integer kernels into u8 in place.

    Kernels with s8 activations are left: onnxruntime multiplies those by s8 weights only, and turns them into u8 by
    itself where they come from Q/DQ.

    Returns:
        How many inputs of nodes were changed.
    """
    writer = _Writer(model)
    nodes = [node for scope in graph.with_bodies(model.graph) for node in scope]
    return sum(writer.change(node, place) for node in nodes for place in _PLACES.get(node.op_type, ()))


class _Writer:
    def __init__(self, model: ir.Model) -> None:
        self._names = graph.NameSource(model)
        self._made: dict[tuple[object, ...], tuple[ir.Value, ir.Value]] = {}

    def change(self, node: ir.Node, place: _Place) -> bool:
        weight, zero_point, scale, other = (_input(node, index) for index in place)
        stored = graph.constant_tensor(weight)
        if weight is None or stored is None or not _is_s8(weight) or len(stored.shape) < 2 or _is_s8(other):
            return False
        if node.op_type == "DequantizeLinear" and not _is_weight(node.outputs[0]):
            return False
        if zero_point is not None and graph.constant_tensor(zero_point) is None:
            return False
        zeros = _zeros(zero_point, scale)
        if zeros is None:
            return False
        # A Constant node is seen in its own scope only; an initializer by all who see the weight.
        key = weight, scale if zero_point is None else zero_point, weight.producer() and node.graph
        if key not in self._made:
            name = weight.name or "weight"
            arrays = {f"{name}_u8": _raised(stored.numpy()), f"{name}_u8_zero_point": _raised(zeros)}
            new, zero = (graph.constant_beside(weight, node, self._names(each), a) for each, a in arrays.items())
            self._made[key] = new, zero
        new, zero = self._made[key]
        node.resize_inputs(max(len(node.inputs), place.zero_point + 1))
        node.replace_input_with(place.weight, new)
        node.replace_input_with(place.zero_point, zero)
        return True


def _input(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def _is_s8(value: ir.Value | None) -> bool:
    if value is None:
        return False
    tensor = graph.constant_tensor(value)
    return (value.dtype if tensor is None else tensor.dtype) is ir.DataType.INT8


def _is_weight(value: ir.Value) -> bool:
    """Whether a product takes the value as its weight."""
    return any(use.node.op_type in _READS_FLOAT_WEIGHTS and use.idx == 1 for use in value.uses())


def _zeros(zero_point: ir.Value | None, scale: ir.Value | None) -> np.ndarray | None:
    """The zero points; where there are none zeros, one for each scale. None where scales are computed."""
    if zero_point is not None:
        return graph.constant(zero_point)
    if scale is None:
        return np.zeros((), np.int8)
    shape = graph.static_shape(scale)
    array = graph.constant(scale)
    return np.zeros(array.shape, np.int8) if array is not None else None if shape is None else np.zeros(shape, np.int8)


def _raised(array: np.ndarray) -> np.ndarray:
    raised: np.ndarray = (array.astype(np.int16) + _SHIFT).astype(np.uint8)
    return raised
