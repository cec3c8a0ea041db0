"""Blocks of normalizations: as one operator, or as exporters write them out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.campaigns.model_builder import Builder, Value, add_reduce


def norm_block(b: Builder, x: Value) -> Value:
    c = x.shape[1]
    parameters = [b.numbers(c), b.numbers(c), b.numbers(c), b.numbers(c, positive=True)]
    epsilon = float(b.pick([1e-5, 1e-3, 1e-2]))
    names = [b.const(array, plain=index == 3) for index, array in enumerate(parameters)]
    return b.op("BatchNormalization", x, *names, shape=x.shape, epsilon=epsilon)


def instance_norm_block(b: Builder, x: Value) -> Value:
    c = x.shape[1]
    if b.chance(0.5):
        return b.op("InstanceNormalization", x, b.const(b.numbers(c)), b.const(b.numbers(c)), shape=x.shape)
    mean = add_reduce(b, "ReduceMean", x, (2, 3))
    return add_normalization(b, x, mean, (2, 3), (1, c, 1, 1))


def add_normalization(b: Builder, x: Value, mean: Value, axes: Sequence[int], weights: Sequence[int]) -> Value:
    centred = b.op("Sub", x, mean, shape=x.shape)
    square = (
        b.op("Mul", centred, centred, shape=x.shape)
        if b.chance(0.5)
        else b.op("Pow", centred, b.const(np.float32(2), plain=True), shape=x.shape)
    )
    variance = add_reduce(b, "ReduceMean", square, axes)
    shifted = b.op("Add", variance, b.const(np.float32(1e-5), plain=True), shape=variance.shape)
    y = b.op("Div", centred, b.op("Sqrt", shifted, shape=variance.shape), shape=x.shape)
    y = b.op("Mul", y, b.const(b.numbers(*weights)), shape=x.shape)
    return b.op("Add", y, b.const(b.numbers(*weights)), shape=x.shape)


def layer_norm_block(b: Builder, x: Value) -> Value:
    k = x.shape[-1]
    if b.chance(0.3):
        square = b.op("Mul", x, x, shape=x.shape)
        mean = add_reduce(b, "ReduceMean", square, (-1,))
        root = b.op(
            "Sqrt", b.op("Add", mean, b.const(np.float32(1e-6), plain=True), shape=mean.shape), shape=mean.shape
        )
        return b.op("Mul", b.op("Div", x, root, shape=x.shape), b.const(b.numbers(k)), shape=x.shape)
    return add_normalization(b, x, add_reduce(b, "ReduceMean", x, (-1,)), (-1,), (k,))
