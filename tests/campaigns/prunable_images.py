"""Blocks over images (N, C, H, W), series (N, C, L) and volumes (N, C, D, H, W) for `prunable_models`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.campaigns.prunable_net import Flow, Net, activation, reshape, transpose

Block = Callable[[Net, Flow], Flow]


def conv(n: Net, x: Flow, width: int, *, group: int = 1, kernel: int | None = None) -> Flow:
    """A convolution that keeps the size of images, with a bias or without."""
    size = n.pick([1, 3]) if kernel is None else kernel
    spatial = len(x.shape) - 2
    inputs: list[Flow | str] = [x, n.weight(width, x.width // group, *[size] * spatial)]
    if n.chance(0.5):
        inputs.append(n.weight(width))
    shape = (1, width, *x.shape[2:])
    return n.op("Conv", *inputs, shape=shape, group=group, pads=[size // 2] * 2 * spatial)


def norm(n: Net, x: Flow) -> Flow:
    """BatchNormalization, InstanceNormalization, or none."""
    kind = n.pick(["BatchNormalization", "BatchNormalization", "InstanceNormalization", ""])
    if not kind:
        return x
    inputs = [n.weight(x.width), n.weight(x.width)]
    if kind == "BatchNormalization":
        inputs += [n.weight(x.width), n.weight(x.width, positive=True)]
    return n.op(kind, x, *inputs, shape=x.shape)


def plain(n: Net, x: Flow) -> Flow:
    return activation(n, norm(n, conv(n, x, n.pick([4, 6, 8, 12]))))


def residual(n: Net, x: Flow) -> Flow:
    width = x.width if n.chance(0.7) else n.pick([4, 8])
    inner = conv(n, plain(n, x), width)
    short = x if width == x.width else conv(n, x, width, kernel=1)
    return activation(n, n.op("Add", *((inner, short) if n.chance(0.5) else (short, inner)), shape=inner.shape))


def concat(n: Net, x: Flow) -> Flow:
    parts = [plain(n, x) for _ in range(n.pick([2, 3]))]
    if n.chance(0.5):
        parts.insert(0, x)
    width = sum(part.width for part in parts)
    return n.op("Concat", *parts, shape=(1, width, *x.shape[2:]), axis=1)


def split(n: Net, x: Flow) -> Flow:
    """Two parts that go their own ways; the sizes are an input of Split, or the bounds of Slices."""
    x = conv(n, x, 8)
    first = n.pick([2, 4, 5])
    shapes = [(1, size, *x.shape[2:]) for size in (first, 8 - first)]
    if n.chance(0.5):
        parts = n.ops("Split", x, n.const([first, 8 - first]), shapes=shapes, axis=1)
    else:
        bounds = [(0, first), (first, n.pick([8, 2**31 - 1]))]
        parts = [
            n.op("Slice", x, n.const([start]), n.const([end]), n.const([1]), shape=shape)
            for (start, end), shape in zip(bounds, shapes, strict=True)
        ]
    parts[1] = plain(n, parts[1]) if n.chance(0.7) else activation(n, parts[1])
    return n.op("Concat", *parts, shape=(1, parts[0].width + parts[1].width, *x.shape[2:]), axis=1)


def glu(n: Net, x: Flow) -> Flow:
    """A gate: half of the channels multiply the others."""
    x = conv(n, x, 8)
    shapes = [(1, 4, *x.shape[2:])] * 2
    left, right = n.ops("Split", x, n.const([4, 4]), shapes=shapes, axis=1)
    return n.op("Mul", left, n.op("Sigmoid", right, shape=right.shape), shape=left.shape)


def depthwise(n: Net, x: Flow) -> Flow:
    x = conv(n, x, n.pick([4, 8]), kernel=1)
    return plain(n, norm(n, conv(n, activation(n, x), x.width * n.pick([1, 1, 2]), group=x.width, kernel=3)))


def grouped(n: Net, x: Flow) -> Flow:
    x = conv(n, x, 8, kernel=1)
    return plain(n, conv(n, activation(n, x), n.pick([8, 16]), group=n.pick([2, 4])))


def transposed(n: Net, x: Flow) -> Flow:
    group = n.pick([1, 1, 2])
    width, spatial = n.pick([4, 6]), len(x.shape) - 2
    x = conv(n, x, 4)
    shape = (1, width, *(2 * size for size in x.shape[2:]))
    inputs: list[Flow | str] = [x, n.weight(4, width // group, *[2] * spatial)]
    if n.chance(0.5):
        inputs.append(n.weight(width))
    y = n.op("ConvTranspose", *inputs, shape=shape, group=group, strides=[2] * spatial)
    y, twos = activation(n, y), [2] * spatial
    return n.op("MaxPool", y, shape=(1, width, *x.shape[2:]), kernel_shape=twos, strides=twos)


def squeeze_excite(n: Net, x: Flow) -> Flow:
    x = plain(n, x)
    spatial = len(x.shape) - 2
    pooled = n.op("GlobalAveragePool", x, shape=(1, x.width, *[1] * spatial))
    if n.chance(0.5):
        gate = conv(n, activation(n, conv(n, pooled, 4, kernel=1)), x.width, kernel=1)
    else:
        flat = n.op("Flatten", pooled, shape=(1, x.width))
        hidden = n.op("Gemm", flat, n.weight(4, x.width), n.weight(4), shape=(1, 4), transB=1)
        gate = n.op("Gemm", n.op("Relu", hidden, shape=(1, 4)), n.weight(4, x.width), shape=(1, x.width))
        gate = reshape(n, gate, pooled.shape)
    gate = n.op(n.pick(["Sigmoid", "HardSigmoid"]), gate, shape=gate.shape)
    return n.op("Mul", x, gate, shape=x.shape)


def shuffle(n: Net, x: Flow) -> Flow:
    """Channels of two groups become neighbours (Zhang et al. 2018, ShuffleNet); often in front of a split."""
    left, right = plain(n, x), x
    right = conv(n, x, left.width)
    y = n.op("Concat", left, right, shape=(1, 2 * left.width, *x.shape[2:]), axis=1)
    spatial = list(range(3, 3 + len(x.shape) - 2))
    cut = reshape(n, y, (1, 2, left.width, *x.shape[2:]))
    y = reshape(n, transpose(n, cut, [0, 2, 1, *spatial]), y.shape)
    return split_halves(n, y) if n.chance(0.5) else y


def split_halves(n: Net, x: Flow) -> Flow:
    half = x.width // 2
    shapes = [(1, half, *x.shape[2:]), (1, x.width - half, *x.shape[2:])]
    left, right = n.ops("Split", x, n.const([half, x.width - half]), shapes=shapes, axis=1)
    return n.op("Concat", left, conv(n, right, 6), shape=(1, half + 6, *x.shape[2:]), axis=1)


def picked(n: Net, x: Flow) -> Flow:
    x = conv(n, x, 8)
    order = n.rng.permutation(8)[: n.pick([5, 8])]
    return n.op("Gather", x, n.const(order), shape=(1, len(order), *x.shape[2:]), axis=1)


def padded(n: Net, x: Flow) -> Flow:
    """Zeros beside the channels, as the shortcuts of some residual networks have, and a border that is cut again."""
    extra = n.pick([0, 2])
    spatial = len(x.shape) - 2
    pads = [0, 0, *[1] * spatial, 0, extra, *[1] * spatial]
    shape = (1, x.width + extra, *(size + 2 for size in x.shape[2:]))
    y = n.op("Pad", x, n.const(pads), shape=shape)
    ends, axes = [size + 1 for size in x.shape[2:]], list(range(2, 2 + spatial))
    cut = [n.const(numbers) for numbers in ([1] * spatial, ends, axes)]
    return n.op("Slice", y, *cut, shape=(1, x.width + extra, *x.shape[2:]))


def group_norm(n: Net, x: Flow) -> Flow:
    """As exporters write it: each group is one channel of an InstanceNormalization; or the operator of opset 21."""
    x = conv(n, x, 8)
    if n.opset >= 21 and n.chance(0.5):
        return n.op("GroupNormalization", x, n.weight(8), n.weight(8), shape=x.shape, num_groups=n.pick([2, 4]))
    groups = n.pick([2, 4])
    cut = reshape(n, x, (1, groups, int(np.prod(x.shape[1:])) // groups))
    ones, zeros = n.const(np.ones(groups), np.float32), n.const(np.zeros(groups), np.float32)
    y = reshape(n, n.op("InstanceNormalization", cut, ones, zeros, shape=cut.shape), x.shape)
    each = (8, *[1] * (len(x.shape) - 2))
    y = n.op("Mul", y, n.weight(*each), shape=x.shape)
    return n.op("Add", y, n.weight(*each), shape=x.shape)


def depth_space(n: Net, x: Flow) -> Flow:
    if len(x.shape) != 4:
        return plain(n, x)
    height, width = x.shape[2:]
    y = n.op("SpaceToDepth", x, shape=(1, 4 * x.width, height // 2, width // 2), blocksize=2)
    y = conv(n, activation(n, y), 16)
    if n.chance(0.5):
        mode = n.pick(["DCR", "CRD"])
        return n.op("DepthToSpace", y, shape=(1, 4, height, width), blocksize=2, mode=mode)
    cut = reshape(n, y, (1, 4, 2, 2, height // 2, width // 2))
    return reshape(n, transpose(n, cut, [0, 1, 4, 2, 5, 3]), (1, 4, height, width))


def resized(n: Net, x: Flow) -> Flow:
    spatial = len(x.shape) - 2
    scales = n.const([1, 1, *[2] * spatial], np.float32)
    y = n.op("Resize", x, "", scales, shape=(1, x.width, *(2 * size for size in x.shape[2:])), mode="nearest")
    return n.op("AveragePool", y, shape=x.shape, kernel_shape=[2] * spatial, strides=[2] * spatial)


def lrn(n: Net, x: Flow) -> Flow:
    return n.op("LRN", x, shape=x.shape, size=3) if len(x.shape) == 4 else plain(n, x)


def channel_last(n: Net, x: Flow) -> Flow:
    """Products over the last axis, in between two transpositions (Liu et al. 2022, ConvNeXt)."""
    rank = len(x.shape)
    y = transpose(n, x, [0, *range(2, rank), 1])
    if n.chance(0.5):
        y = n.op("LayerNormalization", y, n.weight(x.width), n.weight(x.width), shape=y.shape)
    y = n.op("MatMul", y, n.weight(x.width, 10), shape=(*y.shape[:-1], 10))
    y = activation(n, n.op("Add", y, n.weight(10), shape=y.shape), channels=rank - 1)
    y = n.op("MatMul", y, n.weight(10, x.width), shape=(*y.shape[:-1], x.width))
    y = transpose(n, y, [0, rank - 1, *range(1, rank - 1)])
    return n.op("Add", x, y, shape=x.shape) if n.chance(0.5) else y


BLOCKS: tuple[Block, ...] = (
    plain, plain, residual, residual, concat, split, glu, depthwise, grouped, transposed, squeeze_excite, shuffle,
    picked, padded, group_norm, depth_space, resized, lrn, channel_last,
)  # fmt: skip


def image_head(n: Net, x: Flow) -> Flow:
    """Flatten, a pool, or a mean, and a product for the classes."""
    form = n.pick(["flatten", "reshape", "pool", "mean", "conv"])
    spatial = list(range(2, len(x.shape)))
    if form == "conv":
        return conv(n, x, 3, kernel=1)
    if form == "mean":
        flat = n.op("ReduceMean", x, shape=(1, x.width), axes=spatial, keepdims=0) if n.opset < 18 else n.op(
            "ReduceMean", x, n.const(spatial), shape=(1, x.width), keepdims=0
        )  # fmt: skip
    elif form == "pool":
        pooled = n.op("GlobalMaxPool", x, shape=(1, x.width, *[1] * len(spatial)))
        flat = n.op("Squeeze", pooled, n.const(spatial), shape=(1, x.width))
    else:
        size = int(np.prod(x.shape[1:]))
        flat = n.op("Flatten", x, shape=(1, size)) if form == "flatten" else reshape(n, x, (1, size))
    hidden = n.op("Gemm", flat, n.weight(6, flat.last), n.weight(6), shape=(1, 6), transB=1)
    return n.op("MatMul", activation(n, hidden), n.weight(6, 3), shape=(1, 3))


def feature_shape(n: Net) -> Sequence[Any]:
    """The input: an image, a series or a volume, of a known size."""
    return n.pick([(1, 3, 8, 8), (1, 3, 8, 8), (1, 4, 6, 6), (1, 3, 16), (1, 2, 4, 4, 4)])  # type: ignore[no-any-return]
