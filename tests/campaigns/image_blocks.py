"""Blocks over images, whose axes are N, C, H and W."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.campaigns.elementwise_blocks import affine_block
from tests.campaigns.model_builder import Builder, Value, add_flatten, add_reduce, add_reshape
from tests.campaigns.normalization_blocks import norm_block


def conv_block(
    b: Builder, x: Value, *, kernel: int | None = None, pad: int | None = None, out: int | None = None
) -> Value:
    channels = x.shape[1]
    kernel = b.pick([1, 3]) if kernel is None else kernel
    group = channels if out is None and b.chance(0.25) else 1
    out = channels if group > 1 or (out is None and b.chance(0.6)) else out or int(b.pick([2, 4, 6]))
    same = kernel // 2
    pad = b.pick([0, same]) if pad is None and x.shape[2] > 4 else same if pad is None else pad
    weight = b.const(b.numbers(out, channels // group, kernel, kernel, scale=(channels // group) ** -0.5 / kernel))
    inputs: list[Value | str] = [x, weight]
    if b.chance(0.6):
        inputs.append(b.const(b.numbers(out)))
    side = x.shape[2] + 2 * pad - kernel + 1
    attributes: dict[str, Any] = {"group": group} if group > 1 else {}
    if pad == same and pad and b.chance(0.15):
        attributes["auto_pad"] = b.pick(["SAME_UPPER", "SAME_LOWER"])
    elif pad:
        attributes["pads"] = [pad] * 4
    return b.op("Conv", *inputs, shape=(x.shape[0], out, side, side), kernel_shape=[kernel, kernel], **attributes)


def transposed_conv_block(b: Builder, x: Value) -> Value:
    out, group = int(b.pick([2, 4])), int(b.pick([1, 2]))
    group = group if x.shape[1] % group == 0 else 1
    weight = b.const(b.numbers(x.shape[1], out // group, 2, 2, scale=0.5))
    inputs: list[Value | str] = [x, weight]
    if b.chance(0.5):
        inputs.append(b.const(b.numbers(out)))
    side = x.shape[2] + 1
    return b.op("ConvTranspose", *inputs, shape=(x.shape[0], out, side, side), group=group)


def conv_norm_block(b: Builder, x: Value) -> Value:
    return norm_block(b, b.pick([conv_block, conv_block, transposed_conv_block])(b, x))


def conv_affine_block(b: Builder, x: Value) -> Value:
    y = b.pick([conv_block, conv_block, transposed_conv_block])(b, x)
    return affine_block(b, affine_block(b, y) if b.chance(0.4) else y)


def affine_conv_block(b: Builder, x: Value) -> Value:
    y = affine_block(b, affine_block(b, x) if b.chance(0.4) else x)
    return conv_block(b, y)


def branches_block(b: Builder, x: Value) -> Value:
    out = x.shape[1] if b.chance(0.7) else 4
    parts = [
        conv_block(b, x, kernel=kernel, pad=kernel // 2, out=out) for kernel in b.pick([(1, 3), (3, 3), (1, 1), (3,)])
    ]
    parts = [norm_block(b, part) if b.chance(0.5) else part for part in parts]
    if out == x.shape[1] and b.chance(0.7):
        parts.append(norm_block(b, x) if b.chance(0.5) else x)
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", *((total, part) if b.chance(0.5) else (part, total)), shape=part.shape)
    return total


def add_pad(b: Builder, x: Value, value: float | None = None) -> Value:
    low, high = int(b.pick([0, 1])), 1
    pads = [0, 0, low, low, 0, 0, high, high]
    value = float(b.pick([0.0, 0.0, 0.0, 1.5])) if value is None else value
    side = x.shape[2] + low + high
    shape = (*x.shape[:2], side, side)
    if b.opset < 11:
        return b.op("Pad", x, shape=shape, pads=pads, value=value)
    inputs: list[Value | str] = [x, b.ints(*pads)]
    if value or b.chance(0.5):
        inputs.append(b.const(np.float32(value), plain=True))
    return b.op("Pad", *inputs, shape=shape)


def pad_conv_block(b: Builder, x: Value) -> Value:
    return conv_block(b, add_pad(b, x))


def pool_block(b: Builder, x: Value) -> Value:
    if x.shape[2] < 4:
        return add_pad(b, x)
    if b.chance(0.4):
        x = add_pad(b, b.op("Relu", x, shape=x.shape) if b.chance(0.5) else x)
    side = (x.shape[2] - 2) // 2 + 1
    shape = (*x.shape[:2], side, side)
    if b.chance(0.5):
        return b.op("MaxPool", x, shape=shape, kernel_shape=[2, 2], strides=[2, 2])
    return b.op(
        "AveragePool", x, shape=shape, kernel_shape=[2, 2], strides=[2, 2], count_include_pad=int(b.chance(0.5))
    )


def global_pool_block(b: Builder, x: Value) -> Value:
    if b.chance(0.4):
        y = b.op("GlobalAveragePool", x, shape=(*x.shape[:2], 1, 1))
    else:
        y = add_reduce(b, "ReduceMean", x, (2, 3) if b.chance(0.5) else (-1, -2))
    return add_reshape(b, y, x.shape[:2]) if b.chance(0.5) else add_flatten(b, y)


def mean_of_conv_block(b: Builder, x: Value) -> Value:
    """A gate of what a convolution of whole blocks makes, by its own mean."""
    y = conv_block(b, x, out=16)
    if b.chance(0.5):
        y = b.op(b.pick(["Relu", "Sigmoid"]), y, shape=y.shape)
    mean = add_reduce(b, "ReduceMean", y, b.pick([(2, 3), (-1, -2), (3,)]))
    return conv_block(b, b.op("Mul", y, mean, shape=y.shape), kernel=1, out=x.shape[1])
