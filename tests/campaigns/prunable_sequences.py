"""Blocks over sequences (N, T, D) for `prunable_models`: transformers in several forms, and recurrences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.campaigns.prunable_net import Flow, Net, activation, reshape, transpose

Block = Callable[[Net, Flow], Flow]

HEADS, SIZE, STEPS = 4, 3, 5


def linear(n: Net, x: Flow, width: int) -> Flow:
    """A product, and a bias or none."""
    if len(x.shape) == 3 and n.chance(0.15):
        y = n.op("Einsum", x, n.weight(x.last, width), shape=(*x.shape[:-1], width), equation="btk,kn->btn")
    else:
        y = n.op("MatMul", x, n.weight(x.last, width), shape=(*x.shape[:-1], width))
    if n.chance(0.3):
        return y
    bias = n.weight(width)
    return n.op("Add", *((y, bias) if n.chance(0.5) else (bias, y)), shape=y.shape)


def added(n: Net, x: Flow, y: Flow) -> Flow:
    """A residual sum, where the widths are the same."""
    return n.op("Add", x, y, shape=x.shape) if x.shape == y.shape else y


def normalized(n: Net, x: Flow) -> Flow:
    """LayerNormalization, as one operator or as exporters decompose it; RMSNormalization; or none."""
    form = n.pick(["operator", "parts", "rms", ""])
    if not form:
        return x
    scale, one = n.weight(x.last), (*x.shape[:-1], 1)
    if form == "operator":
        return n.op("LayerNormalization", x, scale, n.weight(x.last), shape=x.shape)
    if form == "rms" and n.opset >= 23:
        return n.op("RMSNormalization", x, scale, shape=x.shape)
    center = n.op("Sub", x, mean(n, x, one), shape=x.shape) if form == "parts" else x
    squares = mean(n, n.op("Mul", center, center, shape=x.shape), one)
    root = n.op("Sqrt", n.op("Add", squares, n.const(1e-5, np.float32), shape=one), shape=one)
    return n.op("Mul", n.op("Div", center, root, shape=x.shape), scale, shape=x.shape)


def mean(n: Net, x: Flow, shape: tuple[int, ...]) -> Flow:
    if n.opset < 18:
        return n.op("ReduceMean", x, shape=shape, axes=[-1])
    return n.op("ReduceMean", x, n.const([-1]), shape=shape)


def feed_forward(n: Net, x: Flow) -> Flow:
    y, width = normalized(n, x), n.pick([8, 10])
    if n.chance(0.3):  # a gate (Shazeer 2020, GLU variants)
        left, right = linear(n, y, width), linear(n, y, width)
        hidden = n.op("Mul", n.op("Sigmoid", left, shape=left.shape), right, shape=left.shape)
    elif n.opset != 23 and n.chance(0.4):
        hidden = contrib_activation(n, y, width)
    else:
        hidden = activation(n, linear(n, y, width), channels=2)
    return added(n, x, linear(n, hidden, x.last))


def contrib_activation(n: Net, x: Flow, width: int) -> Flow:
    y = n.ops("FusedMatMul", x, n.weight(x.last, width), shapes=[(*x.shape[:-1], width)], domain="com.microsoft")[0]
    kind = n.pick(["BiasGelu", "FastGelu", "Gelu", "QuickGelu"])
    more = [n.weight(width)] if kind in {"BiasGelu", "FastGelu"} else []
    return n.ops(kind, y, *more, shapes=[y.shape], domain="com.microsoft")[0]


def in_heads(n: Net, x: Flow, heads: int) -> Flow:
    """(N, T, heads · size) → (N, heads, T, size)."""
    cut = reshape(n, x, (*x.shape[:2], heads, x.last // heads), copied=2)
    return transpose(n, cut, [0, 2, 1, 3])


def attention(n: Net, x: Flow) -> Flow:
    """Decomposed: separate products for query, key and value, or a packed one, which is cut in one of three ways."""
    form, width = n.pick(["separate", "slices", "split", "gather", "grouped"]), HEADS * SIZE
    y, steps = normalized(n, x), x.shape[1]
    if form == "separate":
        parts = [in_heads(n, linear(n, y, width), HEADS) for _ in range(3)]
    elif form == "grouped":
        parts = [in_heads(n, linear(n, y, width), HEADS)]
        parts += [repeated(n, in_heads(n, linear(n, y, width // 2), HEADS // 2)) for _ in range(2)]
    elif form == "gather":
        packed = reshape(n, linear(n, y, 3 * width), (1, steps, 3, HEADS, SIZE), copied=2)
        packed = transpose(n, packed, [2, 0, 3, 1, 4])
        shape = (1, HEADS, steps, SIZE)
        parts = [n.op("Gather", packed, n.const(index), shape=shape, axis=0) for index in range(3)]
    else:
        packed, third = linear(n, y, 3 * width), (1, steps, width)
        if form == "split":
            cut = n.ops("Split", packed, n.const([width] * 3), shapes=[third] * 3, axis=2)
        else:
            cut = [
                n.op("Slice", packed, n.const([i * width]), n.const([(i + 1) * width]), n.const([2]), shape=third)
                for i in range(3)
            ]
        parts = [in_heads(n, part, HEADS) for part in cut]
    return added(n, x, linear(n, attended(n, *parts), n.pick([x.last, 8])))


def repeated(n: Net, x: Flow) -> Flow:
    """Each head of keys for two heads of queries (Ainslie et al. 2023, GQA)."""
    heads, steps, size = x.shape[1:]
    if n.chance(0.3):
        order = np.repeat(np.arange(heads), 2)
        return n.op("Gather", x, n.const(order), shape=(1, 2 * heads, steps, size), axis=1)
    wide = n.op("Unsqueeze", x, n.const([2]), shape=(1, heads, 1, steps, size))
    target = n.const([1, heads if n.chance(0.5) else 1, 2, 1, 1])
    wide = n.op("Expand", wide, target, shape=(1, heads, 2, steps, size))
    joined = n.const([0, 2 * heads, -1, size])
    return n.op("Reshape", wide, joined, shape=(1, 2 * heads, steps, size))


def attended(n: Net, query: Flow, key: Flow, value: Flow) -> Flow:
    """Softmax(Q · Kᵀ / √size + mask) · V, with the heads joined."""
    heads, steps, size = query.shape[1:]
    turned = transpose(n, key, [0, 1, 3, 2])
    scores = n.op("MatMul", query, turned, shape=(1, heads, steps, steps))
    scores = n.op("Mul", scores, n.const(size**-0.5, np.float32), shape=scores.shape)
    if n.chance(0.3):  # a bias for each head (Press et al. 2022, ALiBi)
        scores = n.op("Add", scores, n.weight(1, heads, 1, 1), shape=scores.shape)
    weights = n.op("Softmax", scores, shape=scores.shape, axis=3)
    context = n.op("MatMul", weights, value, shape=(1, heads, steps, size))
    joined = transpose(n, context, [0, 2, 1, 3])
    if n.chance(0.5):
        return n.op("Reshape", joined, n.const([0, 0, -1]), shape=(1, steps, heads * size))
    return n.op("Reshape", joined, n.const([0, 0, heads * size]), shape=(1, steps, heads * size))


def onnx_attention(n: Net, x: Flow) -> Flow:
    """The operator of opset 23, over three axes or four, with as many heads of keys as of queries or fewer."""
    if n.opset < 23:
        return contrib_attention(n, x)
    heads = HEADS // n.pick([1, 1, 2])
    widths = [HEADS * SIZE, heads * SIZE, heads * 2]
    y = normalized(n, x)
    parts = [linear(n, y, width) for width in widths]
    made = HEADS * 2
    if n.chance(0.5):
        shape = (*x.shape[:2], made)
        joined = n.op("Attention", *parts, shape=shape, q_num_heads=HEADS, kv_num_heads=heads)
    else:
        parts = [in_heads(n, part, count) for part, count in zip(parts, [HEADS, heads, heads], strict=True)]
        context = n.op("Attention", *parts, shape=(1, HEADS, x.shape[1], 2))
        joined = n.op("Reshape", transpose(n, context, [0, 2, 1, 3]), n.const([0, 0, -1]), shape=(*x.shape[:2], made))
    return added(n, x, linear(n, joined, x.last))


def contrib_attention(n: Net, x: Flow) -> Flow:
    """com.microsoft Attention or MultiHeadAttention."""
    width, domain = HEADS * SIZE, "com.microsoft"
    shape = (*x.shape[:2], width)
    if n.chance(0.5):
        weights = [n.weight(x.last, 3 * width), n.weight(3 * width)]
        y = n.ops("Attention", x, *weights, shapes=[shape], domain=domain, num_heads=HEADS)[0]
    else:
        parts: list[Flow | str] = [linear(n, x, width) for _ in range(3)]
        if n.chance(0.5):
            parts.append(n.weight(3 * width))
        y = n.ops("MultiHeadAttention", *parts, shapes=[shape], domain=domain, num_heads=HEADS)[0]
    y = linear(n, y, x.last)
    if n.chance(0.5):
        inputs = [n.weight(x.last), n.weight(x.last)]
        return n.ops("SkipLayerNormalization", y, x, *inputs, shapes=[x.shape], domain=domain)[0]
    return added(n, x, y)


def recurrence(n: Net, x: Flow) -> Flow:
    """GRU, LSTM or RNN in one direction or two, with states or without."""
    op_type = n.pick(["GRU", "LSTM", "RNN"])
    gates, both, units = {"GRU": 3, "LSTM": 4, "RNN": 1}[op_type], n.chance(0.5), n.pick([4, 6])
    ways, steps = 1 + both, x.shape[1]
    series = transpose(n, x, [1, 0, 2])
    inputs: list[Flow | str] = [series, n.weight(ways, gates * units, x.last), n.weight(ways, gates * units, units)]
    if n.chance(0.7):
        inputs.append(n.weight(ways, 2 * gates * units))
        if n.chance(0.4):
            inputs += ["", zeros(n, x, ways, units)]
    attributes = {"linear_before_reset": n.pick([0, 1])} if op_type == "GRU" else {}
    direction = "bidirectional" if both else n.pick(["forward", "reverse"])
    states = [(ways, 1, units)] * (2 if op_type == "LSTM" else 1)
    shapes = [(steps, ways, 1, units), *states]
    y, last, *_ = n.ops(op_type, *inputs, shapes=shapes, hidden_size=units, direction=direction, **attributes)
    if n.chance(0.2):
        wide = reshape(n, transpose(n, last, [1, 0, 2]), (1, 1, ways * units))
        return linear(n, wide, 6)
    if not both:
        return transpose(n, n.op("Squeeze", y, n.const([1]), shape=(steps, 1, units)), [1, 0, 2])
    turned = transpose(n, y, [2, 0, 1, 3])
    return n.op("Reshape", turned, n.const([0, 0, -1]), shape=(1, steps, ways * units))


def zeros(n: Net, x: Flow, ways: int, units: int) -> Flow:
    """The first state, of the size of the batch."""
    sizes = n.op("Shape", x, shape=(3,))
    batch = n.op("Slice", sizes, n.const([0]), n.const([1]), shape=(1,))
    target = n.op("Concat", n.const([ways]), batch, n.const([units]), shape=(3,), axis=0)
    return n.op("ConstantOfShape", target, shape=(ways, 1, units))


def einsum_heads(n: Net, x: Flow) -> Flow:
    """Attention whose products name their axes."""
    shape = (1, x.shape[1], HEADS, SIZE)
    parts = [n.op("Einsum", x, n.weight(x.last, HEADS, SIZE), shape=shape, equation="btk,khd->bthd") for _ in range(3)]
    square = (1, HEADS, x.shape[1], x.shape[1])
    scores = n.op("Einsum", parts[0], parts[1], shape=square, equation="bthd,bshd->bhts")
    weights = n.op("Softmax", scores, shape=square, axis=3)
    context = n.op("Einsum", weights, parts[2], shape=shape, equation="bhts,bshd->bthd")
    made = n.op("Einsum", context, n.weight(HEADS, SIZE, x.last), shape=x.shape, equation="bthd,hdk->btk")
    return added(n, x, made)


BLOCKS: tuple[Block, ...] = (
    feed_forward, feed_forward, attention, attention, attention, onnx_attention, onnx_attention, recurrence, recurrence,
    einsum_heads,
)  # fmt: skip


def sequence_head(n: Net, x: Flow) -> Flow:
    """The first position, the mean, or all, and a product for the classes."""
    form = n.pick(["first", "mean", "all"])
    hidden = activation(n, linear(n, x, 6), channels=2)
    if form == "first":
        hidden = n.op("Gather", hidden, n.const(0), shape=(1, 6), axis=1)
    elif form == "mean":
        hidden = n.op("ReduceMean", hidden, shape=(1, 6), axes=[1], keepdims=0) if n.opset < 18 else n.op(
            "ReduceMean", hidden, n.const([1]), shape=(1, 6), keepdims=0
        )  # fmt: skip
    return linear(n, hidden, 3)
