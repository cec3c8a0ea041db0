"""Large weights stored in 8 bits and used in float: only the file becomes smaller.

    weight = Cast(integers) · scale            or  (Cast(integers) - zero_point) · scale

and a Cast to float16 where the model has that: onnxruntime multiplies in float32 only.

onnxruntime computes this once, when it loads the model, so the latency is that of float. It does not fold a
DequantizeLinear, which its integer kernels need: without such a kernel it would run at every inference. A Gemm of
768 × 3072 on four rows then takes 12 times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.numerics import scheme
from modelopt.quant.numerics.scheme import Grid, IntType, QParams, Symmetry

STORED = "its weight is quantized already"
_CHUNK = 2**20
_SMALL = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})


@dataclass(frozen=True)
class WeightUse:
    """A node that reads a constant as its weight.

    Attributes:
        axes: The axes with one scale for each index: outputs, or rows of a table.
    """

    node: ir.Node
    weight: ir.Value
    axes: tuple[int, ...]


def _columns(node: ir.Node, rank: int) -> tuple[int, ...]:
    summed = rank - (1 if graph.attribute_int(node, "transB", 0) else 2)
    return tuple(axis for axis in range(rank) if axis != summed)


def _gathered(node: ir.Node, rank: int) -> tuple[int, ...]:
    return (graph.attribute_int(node, "axis", 0) % rank,)


_Axes = tuple[int, ...] | Callable[[ir.Node, int], tuple[int, ...]]
_POSITIONS: dict[tuple[str, str], tuple[tuple[int, ...], _Axes]] = {
    ("", "Conv"): ((1,), (0,)),
    ("", "ConvTranspose"): ((1,), (1,)),
    ("", "Gemm"): ((1,), _columns),
    ("", "MatMul"): ((1,), _columns),
    ("", "Gather"): ((0,), _gathered),
    ("", "LSTM"): ((1, 2), (0, 1)),
    ("", "GRU"): ((1, 2), (0, 1)),
    ("", "RNN"): ((1, 2), (0, 1)),
    (graph.CONTRIB_DOMAIN, "FusedConv"): ((1,), (0,)),
    (graph.CONTRIB_DOMAIN, "FusedGemm"): ((1,), _columns),
    (graph.CONTRIB_DOMAIN, "FusedMatMul"): ((1,), _columns),
    (graph.CONTRIB_DOMAIN, "Attention"): ((1,), _columns),
    (graph.CONTRIB_DOMAIN, "EmbedLayerNormalization"): ((2, 3, 4), (0,)),
}


def uses(node: ir.Node) -> Iterator[WeightUse]:
    """The constants of at least two axes that `node` reads as weights, whatever their type."""
    positions, axes = _POSITIONS.get(graph.operator_of(node), ((), ()))
    for position in positions:
        value = graph.input_at(node, position)
        tensor = graph.constant_tensor(value)
        if value is not None and tensor is not None and len(tensor.shape) >= 2:
            yield WeightUse(node, value, axes(node, len(tensor.shape)) if callable(axes) else axes)


def is_stored(value: ir.Value | None) -> bool:
    """Whether `value` is a weight that is quantized already: computed from stored integers of 8 bits or fewer."""
    while value is not None:
        producer = value.producer()
        if producer is None or producer.op_type not in {"Mul", "Sub", "Cast", "DequantizeLinear", "Transpose"}:
            return False
        value = producer.inputs[0]
        tensor = graph.constant_tensor(value)
        if tensor is not None:
            return tensor.dtype in _SMALL
    return False


def params_of(array: np.ndarray, axes: tuple[int, ...], *, symmetric: bool) -> QParams:
    """Scale and zero point of each index of `axes`, in a shape that multiplies `array`: 1 along the other axes.

    Args:
        array: Finite float32.
        axes: The axes to keep.
        symmetric: int8 around 0; else uint8 with a zero point.
    """
    others = tuple(axis for axis in range(array.ndim) if axis not in axes)
    low, high = (np.asarray(end(axis=others, keepdims=True)) for end in (array.min, array.max))
    grid = Grid(IntType.S8, Symmetry.SYMMETRIC) if symmetric else Grid(IntType.U8, Symmetry.ASYMMETRIC)
    return scheme.params_from_range(low, high, grid)


def quantize(array: np.ndarray, params: QParams) -> np.ndarray:
    """The integers of `array`, computed for some indices of the first axis at a time, without a second float copy."""
    integers = np.empty(array.shape, params.grid.type.dtype)
    step = max(1, _CHUNK * len(array) // max(array.size, 1))
    scale, zero_point = params.scale, params.zero_point
    for start in range(0, len(array), step):
        rows = slice(start, start + step)
        own = rows if scale.shape[0] > 1 else slice(None)
        steps = array[rows] / scale[own]
        np.rint(steps, out=steps)
        steps += zero_point[own]
        integers[rows] = np.clip(steps, params.grid.low, params.grid.high, out=steps)
    return integers


def why_not(array: np.ndarray, axes: tuple[int, ...]) -> str | None:
    """Why float32 or float16 numbers cannot be stored in 8 bits, or not in fewer bytes, else None."""
    scales = int(np.prod([array.shape[axis] for axis in axes]))
    if array.size + 4 * scales >= array.nbytes:
        return "a scale for each output would take as much as the float weight"
    return None if np.isfinite(array).all() else "its weight holds NaN or Inf"


def write(model: ir.Model, weight: ir.Value, integers: np.ndarray, params: QParams, names: graph.NameSource) -> None:
    """Let all readers of `weight` read the integers through the nodes above, in the graph that held the float."""
    graph.allow_plain_initializers(model)
    holder, prefix = graph.holder_of(weight), weight.name or "weight"
    stored = graph.add_initializer(holder, names(f"{prefix}_quantized"), integers)
    scale = graph.add_initializer(holder, names(f"{prefix}_scale"), params.scale)
    nodes = [ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})]
    if np.any(params.zero_point):
        zero_point = params.zero_point.astype(np.float32)
        zero = graph.add_initializer(holder, names(f"{prefix}_zero_point"), zero_point)
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], zero]))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], scale]))
    tensor = graph.constant_tensor(weight)
    dtype = ir.DataType.FLOAT if tensor is None else tensor.dtype
    if dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": dtype.value}))
    for node in nodes:
        made = node.outputs[0]
        made.name = node.name = names(f"{prefix}_{node.op_type}")
        made.shape, made.type = ir.Shape(integers.shape), ir.TensorType(ir.DataType.FLOAT)
    nodes[-1].outputs[0].type = ir.TensorType(dtype)
    graph.insert_behind(weight, nodes)
    weight.replace_all_uses_with(nodes[-1].outputs[0])
    graph.drop_unused_constants([weight])
