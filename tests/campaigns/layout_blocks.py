"""Blocks that move elements: Transpose, Reshape, Slice, Split, Concat, Gather."""

from __future__ import annotations

import numpy as np

from tests.campaigns.elementwise_blocks import neutral_block
from tests.campaigns.model_builder import (
    Builder,
    Value,
    add_flatten,
    add_reduce,
    add_reshape,
    add_slice,
    add_split,
    add_squeezed,
)


def transposes_block(b: Builder, x: Value) -> Value:
    """One or two transpositions, operators that work on other axes too, and one back."""
    rank = len(x.shape)
    made = [0, *range(1, rank)]
    for _ in range(int(b.pick([1, 2]))):
        perm = [0, *(1 + b.rng.permutation(rank - 1))] if b.chance(0.8) else list(range(rank))[::-1]
        perm = [int(axis) for axis in perm]
        x = b.op("Transpose", x, shape=[x.shape[axis] for axis in perm], perm=perm)
        made = [made[axis] for axis in perm]
        x = across_block(b, x) if b.chance(0.6) else x
    back = [made.index(axis) for axis in range(rank)]
    return b.op("Transpose", x, shape=[x.shape[axis] for axis in back], perm=back)


def across_block(b: Builder, x: Value) -> Value:
    """An operator along an axis, or two values that were transposed alike, in the shape of `x`."""
    axis = int(b.rng.integers(1, len(x.shape))) if len(x.shape) > 1 else 0
    kind = b.pick(["scale", "sum", "concat", "reduce", "pad", "softmax"])
    if kind == "scale":
        return b.op("Mul", x, b.const(b.numbers(x.shape[-1], positive=True)), shape=x.shape)
    other = b.op(b.pick(["Sigmoid", "Tanh"]), x, shape=x.shape)
    if kind == "sum":
        return b.op("Add", x, other, shape=x.shape)
    if kind == "softmax" and b.opset >= 13:
        return b.op("Softmax", x, shape=x.shape, axis=b.pick([axis, axis - len(x.shape)]))
    if kind == "reduce":
        return b.op("Sub", x, add_reduce(b, b.pick(["ReduceMax", "ReduceMean"]), other, (axis,)), shape=x.shape)
    size = x.shape[axis]
    if kind == "pad" and b.opset >= 11:
        pads = [0] * (2 * len(x.shape))
        pads[axis] = pads[axis + len(x.shape)] = 1
        wide = (*x.shape[:axis], size + 2, *x.shape[axis + 1 :])
        return add_slice(b, b.op("Pad", other, b.ints(*pads), shape=wide), axis, 1, size + 1)
    wide = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return add_slice(b, b.op("Concat", x, other, shape=wide, axis=axis), axis, size // 2, size // 2 + size)


def reshapes_block(b: Builder, x: Value) -> Value:
    size = int(np.prod(x.shape[1:]))
    y = x
    for _ in range(int(b.pick([1, 2, 3]))):
        form = b.pick(["reshape", "flatten", "unsqueeze", "zero"])
        if form == "flatten":
            y = add_flatten(b, y)
        elif form == "unsqueeze":
            y = add_squeezed(b, add_squeezed(b, y, "Unsqueeze"), "Squeeze")
        elif form == "zero" and len(y.shape) > 1:
            y = b.op("Reshape", y, b.ints(0, -1), shape=(y.shape[0], size))
        else:
            split = b.pick([d for d in (1, 2, 3, size) if size % d == 0])
            y = add_reshape(b, y, (x.shape[0], split, size // split))
    return add_reshape(b, y, x.shape)


def shape_chain_block(b: Builder, x: Value) -> Value:
    """Flatten by Shape, Gather, Concat, Reshape, and back."""
    size = int(np.prod(x.shape[1:]))
    shape = b.op("Shape", x, shape=(len(x.shape),))
    first = b.op("Gather", shape, b.const(np.array([0]), np.int64, plain=True), shape=(1,), axis=0)
    wanted = b.op("Concat", first, b.ints(b.pick([-1, size])), shape=(2,), axis=0)
    zeros = {"allowzero": 1} if b.opset >= 14 and b.chance(0.4) else {}
    y = b.op("Reshape", x, wanted, shape=(x.shape[0], size), **zeros)
    return b.op("Reshape", b.op("Relu", y, shape=y.shape) if b.chance(0.5) else y, shape, shape=x.shape, **zeros)


def concat_of_slices_block(b: Builder, x: Value) -> Value:
    axis = 1 if len(x.shape) > 1 else 0
    size = x.shape[axis]
    if size < 2:
        return neutral_block(b, x)
    cut = int(b.rng.integers(1, size))
    if b.chance(0.5):
        left, right = (add_slice(b, x, axis, start, end) for start, end in ((0, cut), (cut, size)))
    else:
        left, right = add_split(b, x, axis, (cut, size - cut))
    parts = (right, left) if b.chance(0.3) else (left, right)
    return b.op("Concat", *parts, shape=x.shape, axis=axis)


def slices_block(b: Builder, x: Value) -> Value:
    axis = len(x.shape) - 1
    if x.shape[axis] < 4:
        return neutral_block(b, x)
    return add_slice(b, add_slice(b, x, axis, 1, x.shape[axis]), axis, 0, x.shape[axis] - 2)


def parts_of_concat_block(b: Builder, x: Value) -> Value:
    """Join two halves, or x and something, and take a part again: by Slice, Split or Gather."""
    axis = len(x.shape) - 1
    size = x.shape[axis]
    other = b.op(b.pick(["Neg", "Relu"]), x, shape=x.shape)
    parts = (x, other) if b.chance(0.5) else (other, x)
    joined = b.op("Concat", *parts, shape=(*x.shape[:-1], 2 * size), axis=b.pick([axis, -1]))
    form, start = b.pick(["slice", "split", "gather"]), int(b.pick([0, size, size, 1]))
    if form == "slice":
        return add_slice(b, joined, axis, start, start + size)
    if form == "split":
        left, right = add_split(b, joined, axis, (size, size))
        return b.op("Add", left, right, shape=x.shape) if b.chance(0.5) else b.pick([left, right])
    order = np.arange(size) + start if b.chance(0.5) else b.rng.integers(0, size, size=size) + start
    order = order - 2 * size if b.chance(0.3) and b.opset >= 11 else order
    return b.op("Gather", joined, b.const(order, np.int64, plain=True), shape=x.shape, axis=axis)


def gathers_block(b: Builder, x: Value) -> Value:
    """Gather of Gather, and one of an axis that was new."""
    axis = len(x.shape) - 1
    for _ in range(2):
        order = b.rng.integers(0, x.shape[axis], size=x.shape[axis])
        x = b.op("Gather", x, b.const(order, np.int64, plain=True), shape=x.shape, axis=b.pick([axis, -1]))
    if b.chance(0.5):
        return x
    raised = add_squeezed(b, x, "Unsqueeze")
    return b.op("Gather", raised, b.const(np.array(0), np.int64, plain=True), shape=x.shape, axis=1)
