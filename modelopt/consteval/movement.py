"""Kernels that move elements and compute none.

https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math

import numpy as np

from modelopt import graph
from modelopt.consteval import sizes
from modelopt.consteval.call import Call, Kernel, LeftToRuntime, NotEvaluable, axis_in
from modelopt.graph.operators import TO_THE_END


def reshape_target(shape: tuple[int, ...], wanted: tuple[int, ...], *, allow_zero: bool) -> tuple[int, ...]:
    """The shape that Reshape gives a tensor of `shape`: 0 copies a dimension, -1 takes what is left.

    Raises:
        NotEvaluable: `wanted` does not fit.
    """
    if not allow_zero and any(dim == 0 and axis >= len(shape) for axis, dim in enumerate(wanted)):
        raise NotEvaluable("a 0 in its target shape copies a dimension that is not there")
    target = [shape[axis] if dim == 0 and not allow_zero else dim for axis, dim in enumerate(wanted)]
    if target.count(-1) > 1 or any(dim < -1 for dim in target):
        raise NotEvaluable("its target shape is invalid")
    if -1 in target:
        known = math.prod(dim for dim in target if dim != -1)
        if known == 0:
            raise NotEvaluable("a -1 in its target shape is not determined")
        target[target.index(-1)] = math.prod(shape) // known
    if math.prod(target) != math.prod(shape):
        raise NotEvaluable(f"its shape {list(shape)} cannot become {list(wanted)}")
    return tuple(target)


def _reshape(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    target = reshape_target(data.shape, call.ints(1), allow_zero=bool(call.attribute_int("allowzero", 0)))
    return [data.reshape(target)]


def _squeeze(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    axes = call.attribute_or_input("axes", 1, since=13)
    if axes is None:
        return [data.squeeze()]
    return [data.squeeze(tuple(axis_in(axis, data.ndim) for axis in axes))]


def _unsqueeze(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    axes = call.attribute_or_input("axes", 1, since=13)
    if axes is None:
        raise NotEvaluable("its axes are missing")
    rank = data.ndim + len(axes)
    return [np.expand_dims(data, tuple(axis_in(axis, rank) for axis in axes))]


def _flatten(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    axis = call.attribute_int("axis", 1)
    if not -data.ndim <= axis <= data.ndim:
        raise NotEvaluable(f"axis {axis} is outside rank {data.ndim}")
    axis = axis + data.ndim if axis < 0 else axis
    return [data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))]


def _transpose(call: Call) -> list[np.ndarray]:
    return [call.array(0).transpose(graph.attribute_ints(call.node, "perm"))]


def slice_parts(call: Call) -> tuple[tuple[int, ...], ...]:
    """Starts, ends, axes and steps of a Slice, as far as they are given: axes and steps may be empty."""
    if call.opset < 10:
        names = ("starts", "ends", "axes")
        starts, ends, axes = (graph.attribute_ints(call.node, name) or () for name in names)
        return starts, ends, axes, ()
    axes, steps = ((() if call.optional(index) is None else call.ints(index)) for index in (3, 4))
    return call.ints(1), call.ints(2), axes, steps


def _slice(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    starts, ends, axes, steps = slice_parts(call)
    axes = axes or tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and end >= TO_THE_END:
            raise LeftToRuntime  # the specification makes it empty, onnxruntime slices to the beginning
        at = axis_in(axis, data.ndim)
        # Python clamps as the specification does, but for a start before the beginning that steps backwards: there the
        # specification starts at element 0 and Python at none.
        first = max(start, -data.shape[at]) if step < 0 else start
        index[at] = slice(first, end, step)
    return [data[tuple(index)]]


def _concat(call: Call) -> list[np.ndarray]:
    arrays = call.arrays()
    return [np.concatenate(arrays, axis=axis_in(call.attribute_int("axis", 0), arrays[0].ndim))]


def _split(call: Call) -> list[np.ndarray]:
    data = call.array(0)
    axis = axis_in(call.attribute_int("axis", 0), data.ndim)
    dim, parts = data.shape[axis], len(call.node.outputs)
    lengths = call.attribute_or_input("split", 1, since=13)
    if lengths is None:
        chunk = -(-dim // parts)  # since opset 18 the last part may be shorter
        lengths = (*(chunk,) * (parts - 1), dim - chunk * (parts - 1))
    if len(lengths) != parts or min(lengths) < 0 or sum(lengths) != dim:
        raise NotEvaluable(f"its parts {list(lengths)} do not add up to {dim}")
    return np.split(data, np.cumsum(lengths)[:-1].tolist(), axis=axis)


def _pads(call: Call) -> list[tuple[int, int]]:
    if graph.attribute_string(call.node, "mode", "constant") != "constant":
        raise LeftToRuntime
    rank = call.array(0).ndim
    pads = call.attribute_or_input("pads", 1, since=11) or ()
    axes = tuple(range(rank)) if call.optional(3) is None else tuple(axis_in(axis, rank) for axis in call.ints(3))
    if len(pads) != 2 * len(axes):
        raise NotEvaluable("its pads do not fit its rank")
    amounts = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        amounts[axis] = (pads[position], pads[position + len(axes)])
    return amounts


def _pad(call: Call) -> list[np.ndarray]:
    data, amounts = call.array(0), _pads(call)
    value = call.optional(2)
    fill = graph.attribute_float(call.node, "value", 0.0) if value is None else value.reshape(())
    # Negative pads crop.
    kept = tuple(slice(max(-before, 0), min(after, 0) or None) for before, after in amounts)
    padded = [(max(before, 0), max(after, 0)) for before, after in amounts]
    return [np.pad(data[kept], padded, constant_values=fill)]


def _pad_bytes(call: Call) -> int:
    data = call.array(0)
    shape = [dim + before + after for dim, (before, after) in zip(data.shape, _pads(call), strict=True)]
    return sizes.of_shape(shape, data)


def _gather(call: Call) -> list[np.ndarray]:
    data, indices = call.array(0), call.array(1)
    return [np.take(data, indices, axis=axis_in(call.attribute_int("axis", 0), data.ndim))]


def _gather_bytes(call: Call) -> int:
    data, indices = call.array(0), call.array(1)
    axis = axis_in(call.attribute_int("axis", 0), data.ndim)
    return sizes.of_shape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data)


def _gather_elements(call: Call) -> list[np.ndarray]:
    data, indices = call.array(0), call.array(1)
    axis = axis_in(call.attribute_int("axis", 0), data.ndim)
    if indices.ndim != data.ndim:
        raise NotEvaluable("its indices have another rank than its data")
    # The other axes of the indices may be shorter: element i of them reads element i of the data.
    kept = tuple(slice(None) if at == axis else slice(indices.shape[at]) for at in range(data.ndim))
    return [np.take_along_axis(data[kept], indices, axis=axis)]


def _gather_nd(call: Call) -> list[np.ndarray]:
    data, indices = call.array(0), call.array(1)
    if call.attribute_int("batch_dims", 0):
        raise LeftToRuntime
    return [data[tuple(np.moveaxis(indices, -1, 0))]]


def _gather_nd_bytes(call: Call) -> int:
    data, indices = call.array(0), call.array(1)
    if not indices.ndim or indices.shape[-1] > data.ndim:
        raise NotEvaluable("its indices do not fit its data")
    return sizes.of_shape((*indices.shape[:-1], *data.shape[indices.shape[-1] :]), data)


def _scatter_nd(call: Call) -> list[np.ndarray]:
    data, indices, updates = call.arrays()
    if graph.attribute_string(call.node, "reduction", "none") != "none":
        raise LeftToRuntime
    result = np.array(data, order="C")
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return [result]


def _trilu(call: Call) -> list[np.ndarray]:
    diagonal = 0 if call.optional(1) is None else call.ints(1)[0]
    keep = np.triu if call.attribute_int("upper", 1) else np.tril
    return [keep(call.array(0), diagonal)]


KERNELS: dict[str, Kernel] = {
    "Concat": Kernel(sizes.as_all_inputs, _concat),
    "Flatten": Kernel(sizes.as_input, _flatten),
    "Gather": Kernel(_gather_bytes, _gather),
    "GatherElements": Kernel(lambda call: sizes.of_shape(call.array(1).shape, call.array(0)), _gather_elements),
    "GatherND": Kernel(_gather_nd_bytes, _gather_nd),
    "Pad": Kernel(_pad_bytes, _pad),
    "Reshape": Kernel(sizes.as_input, _reshape),
    "ScatterND": Kernel(sizes.as_input, _scatter_nd),
    "Slice": Kernel(sizes.as_input, _slice),
    "Split": Kernel(sizes.as_input, _split),
    "Squeeze": Kernel(sizes.as_input, _squeeze),
    "Transpose": Kernel(sizes.as_input, _transpose),
    "Trilu": Kernel(sizes.as_input, _trilu),
    "Unsqueeze": Kernel(sizes.as_input, _unsqueeze),
}
