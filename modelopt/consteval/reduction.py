"""Kernels that reduce or accumulate along axes.

https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelopt.consteval import sizes
from modelopt.consteval.call import Call, Kernel, NotEvaluable, axis_in
from modelopt.consteval.elementwise import divide, is_float

Reduce = Callable[[np.ndarray, tuple[int, ...], bool], np.ndarray]


def _axes(call: Call, *, since: int) -> tuple[int, ...] | None:
    """The axes to reduce; None when the operator does nothing (``noop_with_empty_axes``)."""
    rank = call.array(0).ndim
    axes = call.attribute_or_input("axes", 1, since=since)
    if axes:
        return tuple(axis_in(axis, rank) for axis in axes)
    return None if call.attribute_int("noop_with_empty_axes", 0) else tuple(range(rank))


def _reducer(function: Reduce, *, since: int = 18) -> Kernel:
    """A kernel; the axes are an input from opset `since` on."""

    def run(call: Call) -> list[np.ndarray]:
        x = call.array(0)
        axes = _axes(call, since=since)
        if axes is None:
            return [x]
        result = function(x, axes, bool(call.attribute_int("keepdims", 1)))
        return [np.asarray(result).astype(x.dtype, copy=False)]

    def size(call: Call) -> int:
        # The input's bytes are no bound: the sum over an empty axis has elements where the input has none.
        x = call.array(0)
        axes = _axes(call, since=since)
        return x.nbytes if axes is None else sizes.of_shape([1 if i in axes else d for i, d in enumerate(x.shape)], x)

    return Kernel(size, run)


def _wide(x: np.ndarray) -> np.ndarray:
    """The array in the type to accumulate in: 16-bit floats lose too much in their own."""
    return x.astype(np.float32) if is_float(x.dtype) and x.dtype.itemsize < 4 else x


def _sum(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    wide = _wide(x)
    return np.asarray(np.sum(wide, axis=axes, keepdims=keep, dtype=wide.dtype))


def _prod(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    wide = _wide(x)
    return np.asarray(np.prod(wide, axis=axes, keepdims=keep, dtype=wide.dtype))


def _mean(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    number = sizes.count([x.shape[axis] for axis in axes])
    if number == 0:
        raise NotEvaluable("it is the mean of nothing")
    total = _sum(x, axes, keep)
    return divide(total, np.array(number, total.dtype))


def _extreme(function: Callable[..., np.ndarray]) -> Reduce:
    return lambda x, axes, keep: function(x, axis=axes, keepdims=keep)


def _arg(function: Callable[..., np.ndarray]) -> Kernel:
    def run(call: Call) -> list[np.ndarray]:
        x = call.array(0)
        axis = axis_in(call.attribute_int("axis", 0), x.ndim)
        keep = bool(call.attribute_int("keepdims", 1))
        if call.attribute_int("select_last_index", 0):
            last = x.shape[axis] - 1
            return [np.asarray(last - function(np.flip(x, axis), axis=axis, keepdims=keep), np.int64)]
        return [np.asarray(function(x, axis=axis, keepdims=keep), np.int64)]

    return Kernel(sizes.per_element(8), run)


def _cum_sum(call: Call) -> list[np.ndarray]:
    x = call.array(0)
    axis = axis_in(call.ints(1)[0], x.ndim)
    reverse = bool(call.attribute_int("reverse", 0))
    ordered = np.flip(x, axis) if reverse else x
    total = np.cumsum(ordered, axis=axis, dtype=x.dtype)
    if call.attribute_int("exclusive", 0):
        total = np.roll(total, 1, axis)
        total[(slice(None),) * axis + (slice(0, 1),)] = 0
    return [np.flip(total, axis) if reverse else total]


KERNELS: dict[str, Kernel] = {
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "CumSum": Kernel(sizes.as_input, _cum_sum),
    "ReduceMax": _reducer(_extreme(np.max)),
    "ReduceMean": _reducer(_mean),
    "ReduceMin": _reducer(_extreme(np.min)),
    "ReduceProd": _reducer(_prod),
    "ReduceSum": _reducer(_sum, since=13),
}
