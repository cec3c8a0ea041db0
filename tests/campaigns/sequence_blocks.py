"""Blocks over matrices (N, K) and sequences (N, T, K), and rotary embeddings of heads (N, H, T, K)."""

from __future__ import annotations

import numpy as np

from tests.campaigns.elementwise_blocks import affine_block, neutral_block
from tests.campaigns.model_builder import Builder, Value, add_slice, add_split
from tests.campaigns.normalization_blocks import norm_block


def product_block(b: Builder, x: Value) -> Value:
    k, n = x.shape[-1], int(b.pick([3, 4, 8]))
    shape = (*x.shape[:-1], n)
    if len(x.shape) == 2 and b.chance(0.4):
        transposed = int(b.chance(0.5))
        weight = b.const(b.numbers(*((n, k) if transposed else (k, n)), scale=k**-0.5))
        inputs: list[Value | str] = [x, weight, b.const(b.numbers(*b.pick([(n,), (1, n), (1,), (1, 1)])))]
        if b.opset >= 11 and b.chance(0.2):
            inputs.pop()
        attributes = {"alpha": 0.5, "beta": 2.0} if b.chance(0.3) else {}
        return b.op("Gemm", *inputs, shape=shape, transB=transposed, **attributes)
    y = b.op("MatMul", x, b.const(b.numbers(k, n, scale=k**-0.5)), shape=shape)
    if b.chance(0.7):
        bias = b.const(b.numbers(*b.pick([(n,), (1, n), (), (1,)])))
        y = b.op("Add", *((y, bias) if b.chance(0.7) else (bias, y)), shape=shape)
    return y


def products_block(b: Builder, x: Value) -> Value:
    return product_block(b, product_block(b, x))


def product_affine_block(b: Builder, x: Value) -> Value:
    y = product_block(b, x)
    return norm_block(b, y) if len(y.shape) == 2 and b.chance(0.5) else affine_block(b, y)


def attention_block(b: Builder, x: Value) -> Value:
    """Two heads; one product for Q, K and V, cut in three; a mask that is added, or replaces, or none."""
    if len(x.shape) != 3 or x.shape[2] % 2:
        return product_block(b, x)
    n, t, k = x.shape
    packed = b.op("MatMul", x, b.const(b.numbers(k, 3 * k, scale=k**-0.5)), shape=(n, t, 3 * k))
    if b.chance(0.6):
        packed = b.op("Add", packed, b.const(b.numbers(3 * k)), shape=packed.shape)
    cut = b.chance(0.5)
    thirds = (
        add_split(b, packed, 2, (k, k, k)) if cut else [add_slice(b, packed, 2, i * k, i * k + k) for i in range(3)]
    )
    heads = []
    for index, third in enumerate(thirds):
        split = b.op("Reshape", third, b.ints(0, 0, 2, k // 2), shape=(n, t, 2, k // 2))
        perm = [0, 2, 3, 1] if index == 1 else [0, 2, 1, 3]
        heads.append(b.op("Transpose", split, shape=[split.shape[axis] for axis in perm], perm=perm))
    query, key, value = heads
    scores = b.op("MatMul", query, key, shape=(n, 2, t, t))
    scores = b.op("Mul", scores, b.const(np.float32(0.5), plain=True), shape=scores.shape)
    form = b.pick(["none", "add", "where"])
    if form == "add":
        scores = b.op("Add", scores, b.const(b.numbers(1, 1, t, t), plain=True), shape=scores.shape)
    if form == "where":
        kept = b.const(np.tri(t, dtype=bool)[None, None], bool, plain=True)
        low = b.const(np.float32(b.pick([-np.inf, -3e38, -1e4])), plain=True)
        scores = b.op("Where", kept, scores, low, shape=scores.shape)
    context = b.op("MatMul", b.op("Softmax", scores, shape=scores.shape, axis=3), value, shape=(n, 2, t, k // 2))
    joined = b.op("Transpose", context, shape=(n, t, 2, k // 2), perm=[0, 2, 1, 3])
    return b.op("Reshape", joined, b.ints(0, 0, k), shape=x.shape)


def gather_block(b: Builder, x: Value) -> Value:
    order = b.rng.permutation(x.shape[-1])
    return b.op("Gather", x, b.const(order, np.int64, plain=True), shape=x.shape, axis=len(x.shape) - 1)


def rotary_block(b: Builder, x: Value) -> Value:
    """The axes are batch, heads, length and size; pairs half of the size apart, or neighbours."""
    length, size = x.shape[2:]
    if size % 2:
        return neutral_block(b, x)
    half, neighbours = size // 2, b.chance(0.4)
    angles = b.rng.uniform(-3, 3, size=(length, half))
    doubled = np.repeat(angles, 2, axis=1) if neighbours else np.concatenate([angles, angles], axis=1)
    if b.chance(0.1):
        doubled[0, 0] += 1
    shaped = doubled[None, None] if b.chance(0.5) else doubled
    cosine, sine = (b.const(table, plain=True) for table in (np.cos(shaped), np.sin(shaped)))
    turned = turned_neighbours_block(b, x, half) if neighbours else turned_halves_block(b, x, half)
    straight = b.op("Mul", *((x, cosine) if b.chance(0.5) else (cosine, x)), shape=x.shape)
    crossed = b.op("Mul", *((turned, sine) if b.chance(0.5) else (sine, turned)), shape=x.shape)
    return b.op("Add", *((straight, crossed) if b.chance(0.7) else (crossed, straight)), shape=x.shape)


def turned_halves_block(b: Builder, x: Value, half: int) -> Value:
    axis, shape = len(x.shape) - 1, (*x.shape[:-1], half)
    if b.chance(0.5):
        first, second = add_split(b, x, axis, (half, half))
    else:
        first, second = (add_slice(b, x, axis, start, start + half) for start in (0, half))
    return b.op("Concat", b.op("Neg", second, shape=shape), first, shape=x.shape, axis=-1)


def turned_neighbours_block(b: Builder, x: Value, half: int) -> Value:
    if b.opset < 10:  # Slice has no steps
        return turned_halves_block(b, x, half)
    axis, shape = len(x.shape) - 1, (*x.shape[:-1], half)
    first, second = (
        b.op("Slice", x, b.ints(start), b.ints(2**31 - 1), b.ints(axis), b.ints(2), shape=shape) for start in (0, 1)
    )
    parts = []
    for part in (b.op("Neg", second, shape=shape), first):
        given = {"axes": [axis + 1]} if b.opset < 13 else {}
        more = [] if b.opset < 13 else [b.ints(axis + 1)]
        parts.append(b.op("Unsqueeze", part, *more, shape=(*shape, 1), **given))
    pairs = b.op("Concat", *parts, shape=(*shape, 2), axis=axis + 1)
    return b.op("Reshape", pairs, b.ints(*(0,) * axis, -1), shape=x.shape)
