"""Kernels whose output may be much larger than their inputs: their sizes come from the inputs' values.

https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from modelopt.consteval import sizes
from modelopt.consteval.call import Call, Kernel, NotEvaluable, axis_in


def _shape(call: Call) -> list[np.ndarray]:
    return [np.array(sizes.shape_part(call.node, call.array(0).shape), np.int64)]


def _size(call: Call) -> list[np.ndarray]:
    return [np.array(call.array(0).size, np.int64)]


def _fill(call: Call) -> np.ndarray:
    attribute = call.node.attributes.get("value")
    if attribute is None:
        return np.zeros((), np.float32)
    tensor = attribute.as_tensor()
    if tensor.dtype == ir.DataType.STRING or tensor.size != 1:
        raise NotEvaluable("its value is not one number")
    return tensor.numpy().reshape(())


def _constant_of_shape(call: Call) -> list[np.ndarray]:
    fill = _fill(call)
    return [np.full(call.ints(0), fill, fill.dtype)]


def _range_count(call: Call) -> int:
    start, limit, delta = (call.array(index).reshape(()) for index in range(3))
    # The distance is taken in the tensors' type, as onnxruntime does: 0.3 - 0.1 in float32 is not 0.3 - 0.1 in float64.
    distance, step = (limit - start).item(), delta.item()
    if step == 0 or not math.isfinite(distance) or not math.isfinite(step):
        raise NotEvaluable("its range has no end")
    steps = -(-distance // step) if isinstance(distance, int) else math.ceil(distance / step)
    return max(int(steps), 0)


def _range(call: Call) -> list[np.ndarray]:
    start, delta = call.array(0).reshape(()), call.array(2).reshape(())
    steps = np.arange(_range_count(call)).astype(start.dtype)
    return [np.asarray(start + steps * delta).astype(start.dtype, copy=False)]


def _expand(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    return [np.broadcast_to(data, sizes.broadcast(data.shape, call.ints(1)))]


def _expand_bytes(call: Call) -> int:
    return sizes.of_shape(sizes.broadcast(call.array(0).shape, call.ints(1)), call.array(0))


def _tile(call: Call) -> list[np.ndarray]:
    return [np.tile(call.array(0), call.ints(1))]


def _tile_bytes(call: Call) -> int:
    data, repeats = call.array(0), call.ints(1)
    if len(repeats) != data.ndim:
        raise NotEvaluable("its repeats do not fit its rank")
    return sizes.of_shape([dim * times for dim, times in zip(data.shape, repeats, strict=True)], data)


def _eye_like(call: Call) -> list[np.ndarray]:
    rows, columns = call.array(0).shape
    return [np.eye(rows, columns, call.attribute_int("k", 0), dtype=_eye_dtype(call))]


def _eye_dtype(call: Call) -> np.dtype:
    return ir.DataType(call.attribute_int("dtype", ir.DataType.from_numpy(call.array(0).dtype).value)).numpy()


def _one_hot(call: Call) -> list[np.ndarray]:
    indices, values = call.array(0), call.array(2)
    depth = call.ints(1)[0]
    axis = axis_in(call.attribute_int("axis", -1), indices.ndim + 1)
    hot = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
    classes = np.arange(depth).reshape([depth if at == axis else 1 for at in range(indices.ndim + 1)])
    return [np.where(hot == classes, values[1], values[0])]


def _one_hot_bytes(call: Call) -> int:
    return sizes.of_shape((*call.array(0).shape, call.ints(1)[0]), call.array(2))


def _non_zero(call: Call) -> list[np.ndarray]:
    x = call.array(0)
    if not x.ndim:
        raise NotEvaluable("NonZero of a scalar is read in two ways")
    return [np.array(np.nonzero(x), np.int64)]


KERNELS: dict[str, Kernel] = {
    "ConstantOfShape": Kernel(lambda call: sizes.of_shape(call.ints(0), _fill(call)), _constant_of_shape),
    "Expand": Kernel(_expand_bytes, _expand),
    "EyeLike": Kernel(lambda call: call.array(0).size * _eye_dtype(call).itemsize, _eye_like),
    "NonZero": Kernel(lambda call: call.array(0).size * call.array(0).ndim * 8, _non_zero),
    "OneHot": Kernel(_one_hot_bytes, _one_hot),
    "Range": Kernel(lambda call: _range_count(call) * call.array(0).itemsize, _range),
    "Shape": Kernel(lambda call: call.array(0).ndim * 8, _shape),
    "Size": Kernel(lambda _call: 8, _size),
    "Tile": Kernel(_tile_bytes, _tile),
}
