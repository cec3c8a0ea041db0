"""Seeded random models: every pattern that a pass looks for, crossed with what makes a rewrite wrong.

`model(seed)` composes blocks (a convolution and its normalization, a hardswish, a chain of reshapes, an If that
captures …) into a graph of 3 to 30 nodes, and plants hazards: shared, overridable and odd weights, weights in Constant
nodes, intermediates that are outputs, have two users or are captured by a body, symbolic dimensions, opsets 9 to
current, names that nobody expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_OPSET = 9
MAX_OPSET = min(26, onnx.defs.onnx_opset_version())
MAX_NODES = 30
_ODD_NAMES = ("a:b/c", "[red]d", "\x1b[31me", "späße", "with space", "-1", "?", "x.y::z", "%s{0}")
_ODD_NUMBERS = (np.nan, np.inf, -np.inf, 1e-40, -1e-42, 1e30, 0.0, -0.0)


@dataclass(frozen=True)
class Value:
    """A value of the graph: name, sizes at batch 2, and the axes that follow the batch."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Generated:
    """A model and what to run it on.

    Attributes:
        proto: The model.
        feeds: One dictionary, or two of different batch sizes where the batch is symbolic.
    """

    proto: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]


BATCH = 2
OTHER_BATCH = 3


class Builder:
    """Collects nodes, weights and outputs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.integers(MIN_OPSET, MAX_OPSET + 1))
        self.dynamic = self.chance(0.5)
        self.odd_numbers = self.chance(0.1)
        self.odd_names = self.chance(0.15)
        self.old_ir = self.opset == MIN_OPSET and self.chance(0.3)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.overridable: list[str] = []
        self.outputs: list[Value] = []
        self._count = 0
        self._outer: Builder | None = None
        self._captured: list[Value] = []

    def body(self) -> Builder:
        """A builder for a body: it sees this one's weights and has nodes of its own."""
        inner = Builder.__new__(Builder)
        inner.__dict__.update(self.__dict__)
        inner.nodes, inner._outer = [], self
        inner._count = self._count + 1000
        self._count += 100
        return inner

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]

    def name(self, stem: str) -> str:
        """A name that is free."""
        self._count += 1
        odd = self.pick(_ODD_NAMES) if self.odd_names else ""
        return f"{odd}{stem}_{self._count}"

    def op(self, op_type: str, *inputs: Value | str, shape: Sequence[int], **attributes: Any) -> Value:
        """Add a node with one output."""
        out = self.name(op_type.lower())
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        label = "" if self.chance(0.1) else f"n_{out}"
        self.nodes.append(helper.make_node(op_type, names, [out], name=label, **attributes))
        return Value(out, tuple(shape))

    def numbers(self, *shape: int, scale: float = 1.0, positive: bool = False) -> np.ndarray:
        """Random weights, with odd ones among them in some models."""
        drawn = self.rng.normal(size=shape) * scale
        if positive:
            drawn = np.abs(drawn) + 0.3
        array = np.asarray(drawn, np.float32)
        if self.odd_numbers and array.size > 1 and self.chance(0.3):
            array.reshape(-1)[int(self.rng.integers(array.size))] = self.pick(_ODD_NUMBERS)
        return array

    def const(self, array: Any, dtype: Any = np.float32, *, plain: bool = False) -> str:
        """Store a constant in one of the ways that files do.

        Args:
            array: The numbers.
            dtype: Their type.
            plain: Never overridable: shape inference needs it.
        """
        array = np.asarray(array, dtype)
        twins = [name for name, held in self.weights.items() if held.dtype == array.dtype and held.shape == array.shape]
        if twins and not plain and self.chance(0.2):
            return str(self.pick(twins))  # shared; the numbers change, the shape does not
        name = self.name("w")
        if self.chance(0.25) and not self.old_ir:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            return name
        self.weights[name] = array
        if not plain and self.chance(0.03):
            self.overridable.append(name)
        if not plain and self.chance(0.05):
            copy = self.name("same")
            self.nodes.append(helper.make_node("Identity", [name], [copy]))
            return copy
        return name

    def ints(self, *numbers: int) -> str:
        """A vector of int64: shapes, axes."""
        return self.const(np.array(numbers, np.int64), np.int64, plain=True)


Block = Callable[[Builder, Value], Value]


def _reshape(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    """Reshape to sizes at batch 2 whose first is the batch."""
    wanted = list(shape)
    wanted[0] = b.pick([-1, 0]) if b.dynamic and x.shape[0] == shape[0] == BATCH else (-1 if b.dynamic else shape[0])
    return b.op("Reshape", x, b.ints(*wanted), shape=shape)


# Blocks over images: (N, C, H, W)


def _conv(b: Builder, x: Value, *, kernel: int | None = None, pad: int | None = None, out: int | None = None) -> Value:
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


def _transposed_conv(b: Builder, x: Value) -> Value:
    out, group = int(b.pick([2, 4])), int(b.pick([1, 2]))
    group = group if x.shape[1] % group == 0 else 1
    weight = b.const(b.numbers(x.shape[1], out // group, 2, 2, scale=0.5))
    inputs: list[Value | str] = [x, weight]
    if b.chance(0.5):
        inputs.append(b.const(b.numbers(out)))
    side = x.shape[2] + 1
    return b.op("ConvTranspose", *inputs, shape=(x.shape[0], out, side, side), group=group)


def _norm(b: Builder, x: Value) -> Value:
    c = x.shape[1]
    parameters = [b.numbers(c), b.numbers(c), b.numbers(c), b.numbers(c, positive=True)]
    epsilon = float(b.pick([1e-5, 1e-3, 1e-2]))
    names = [b.const(array, plain=index == 3) for index, array in enumerate(parameters)]
    return b.op("BatchNormalization", x, *names, shape=x.shape, epsilon=epsilon)


def _affine(b: Builder, x: Value) -> Value:
    rank, axis = len(x.shape), 1 if len(x.shape) == 4 else len(x.shape) - 1
    per_channel = [1] * rank
    per_channel[axis] = x.shape[axis]
    shapes = [(), (1,), tuple(per_channel), tuple(per_channel[axis:]), (1,) * rank, (x.shape[-1],)]
    shape = b.pick(shapes)
    op_type = b.pick(["Mul", "Add", "Sub", "Div"])
    constant = b.const(b.numbers(*shape, positive=op_type == "Div"), plain=op_type == "Div")
    swapped = op_type != "Div" and b.chance(0.3)
    return b.op(op_type, *((constant, x) if swapped else (x, constant)), shape=x.shape)


def _conv_norm(b: Builder, x: Value) -> Value:
    return _norm(b, b.pick([_conv, _conv, _transposed_conv])(b, x))


def _conv_affine(b: Builder, x: Value) -> Value:
    y = b.pick([_conv, _conv, _transposed_conv])(b, x)
    return _affine(b, _affine(b, y) if b.chance(0.4) else y)


def _affine_conv(b: Builder, x: Value) -> Value:
    y = _affine(b, _affine(b, x) if b.chance(0.4) else x)
    return _conv(b, y)


def _branches(b: Builder, x: Value) -> Value:
    out = x.shape[1] if b.chance(0.7) else 4
    parts = [_conv(b, x, kernel=kernel, pad=kernel // 2, out=out) for kernel in b.pick([(1, 3), (3, 3), (1, 1), (3,)])]
    parts = [_norm(b, part) if b.chance(0.5) else part for part in parts]
    if out == x.shape[1] and b.chance(0.7):
        parts.append(_norm(b, x) if b.chance(0.5) else x)
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", *((total, part) if b.chance(0.5) else (part, total)), shape=part.shape)
    return total


def _pad(b: Builder, x: Value, value: float | None = None) -> Value:
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


def _pad_conv(b: Builder, x: Value) -> Value:
    return _conv(b, _pad(b, x))


def _pool(b: Builder, x: Value) -> Value:
    if x.shape[2] < 4:
        return _pad(b, x)
    if b.chance(0.4):
        x = _pad(b, b.op("Relu", x, shape=x.shape) if b.chance(0.5) else x)
    side = (x.shape[2] - 2) // 2 + 1
    shape = (*x.shape[:2], side, side)
    if b.chance(0.5):
        return b.op("MaxPool", x, shape=shape, kernel_shape=[2, 2], strides=[2, 2])
    return b.op(
        "AveragePool", x, shape=shape, kernel_shape=[2, 2], strides=[2, 2], count_include_pad=int(b.chance(0.5))
    )


def _global_pool(b: Builder, x: Value) -> Value:
    if b.chance(0.4):
        y = b.op("GlobalAveragePool", x, shape=(*x.shape[:2], 1, 1))
    else:
        y = _reduce(b, "ReduceMean", x, (2, 3) if b.chance(0.5) else (-1, -2))
    return _reshape(b, y, x.shape[:2]) if b.chance(0.5) else _flatten(b, y)


def _reduce(b: Builder, op_type: str, x: Value, axes: Sequence[int]) -> Value:
    shape = list(x.shape)
    for axis in axes:
        shape[axis] = 1
    if b.opset < 18:
        return b.op(op_type, x, shape=shape, axes=list(axes), keepdims=1)
    return b.op(op_type, x, b.ints(*axes), shape=shape, keepdims=1)


def _flatten(b: Builder, x: Value) -> Value:
    return b.op("Flatten", x, shape=(x.shape[0], int(np.prod(x.shape[1:]))))


def _instance_norm(b: Builder, x: Value) -> Value:
    c = x.shape[1]
    if b.chance(0.5):
        return b.op("InstanceNormalization", x, b.const(b.numbers(c)), b.const(b.numbers(c)), shape=x.shape)
    mean = _reduce(b, "ReduceMean", x, (2, 3))
    return _normalized(b, x, mean, (2, 3), (1, c, 1, 1))


def _normalized(b: Builder, x: Value, mean: Value, axes: Sequence[int], weights: Sequence[int]) -> Value:
    centred = b.op("Sub", x, mean, shape=x.shape)
    square = (
        b.op("Mul", centred, centred, shape=x.shape)
        if b.chance(0.5)
        else b.op("Pow", centred, b.const(np.float32(2), plain=True), shape=x.shape)
    )
    variance = _reduce(b, "ReduceMean", square, axes)
    shifted = b.op("Add", variance, b.const(np.float32(1e-5), plain=True), shape=variance.shape)
    y = b.op("Div", centred, b.op("Sqrt", shifted, shape=variance.shape), shape=x.shape)
    y = b.op("Mul", y, b.const(b.numbers(*weights)), shape=x.shape)
    return b.op("Add", y, b.const(b.numbers(*weights)), shape=x.shape)


def _concat_of_slices(b: Builder, x: Value) -> Value:
    axis = 1 if len(x.shape) > 1 else 0
    size = x.shape[axis]
    if size < 2:
        return _neutral(b, x)
    cut = int(b.rng.integers(1, size))
    if b.chance(0.5):
        left, right = (_slice(b, x, axis, start, end) for start, end in ((0, cut), (cut, size)))
    else:
        left, right = _split(b, x, axis, (cut, size - cut))
    parts = (right, left) if b.chance(0.3) else (left, right)
    return b.op("Concat", *parts, shape=x.shape, axis=axis)


def _slice(b: Builder, x: Value, axis: int, start: int, end: int) -> Value:
    shape = list(x.shape)
    shape[axis] = end - start
    if b.opset < 10:
        return b.op("Slice", x, shape=shape, starts=[start], ends=[end], axes=[axis])
    return b.op("Slice", x, b.ints(start), b.ints(end), b.ints(axis), shape=shape)


def _slices(b: Builder, x: Value) -> Value:
    axis = len(x.shape) - 1
    if x.shape[axis] < 4:
        return _neutral(b, x)
    return _slice(b, _slice(b, x, axis, 1, x.shape[axis]), axis, 0, x.shape[axis] - 2)


def _mean_of_conv(b: Builder, x: Value) -> Value:
    """A gate of what a convolution of whole blocks makes, by its own mean."""
    y = _conv(b, x, out=16)
    if b.chance(0.5):
        y = b.op(b.pick(["Relu", "Sigmoid"]), y, shape=y.shape)
    mean = _reduce(b, "ReduceMean", y, b.pick([(2, 3), (-1, -2), (3,)]))
    return _conv(b, b.op("Mul", y, mean, shape=y.shape), kernel=1, out=x.shape[1])


def _rotary(b: Builder, x: Value) -> Value:
    """The axes are batch, heads, length and size; pairs half of the size apart, or neighbours."""
    length, size = x.shape[2:]
    if size % 2:
        return _neutral(b, x)
    half, neighbours = size // 2, b.chance(0.4)
    angles = b.rng.uniform(-3, 3, size=(length, half))
    doubled = np.repeat(angles, 2, axis=1) if neighbours else np.concatenate([angles, angles], axis=1)
    if b.chance(0.1):
        doubled[0, 0] += 1
    shaped = doubled[None, None] if b.chance(0.5) else doubled
    cosine, sine = (b.const(table, plain=True) for table in (np.cos(shaped), np.sin(shaped)))
    turned = _turned_neighbours(b, x, half) if neighbours else _turned_halves(b, x, half)
    straight = b.op("Mul", *((x, cosine) if b.chance(0.5) else (cosine, x)), shape=x.shape)
    crossed = b.op("Mul", *((turned, sine) if b.chance(0.5) else (sine, turned)), shape=x.shape)
    return b.op("Add", *((straight, crossed) if b.chance(0.7) else (crossed, straight)), shape=x.shape)


def _turned_halves(b: Builder, x: Value, half: int) -> Value:
    axis, shape = len(x.shape) - 1, (*x.shape[:-1], half)
    if b.chance(0.5):
        first, second = _split(b, x, axis, (half, half))
    else:
        first, second = (_slice(b, x, axis, start, start + half) for start in (0, half))
    return b.op("Concat", b.op("Neg", second, shape=shape), first, shape=x.shape, axis=-1)


def _turned_neighbours(b: Builder, x: Value, half: int) -> Value:
    if b.opset < 10:  # Slice has no steps
        return _turned_halves(b, x, half)
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


def _split(b: Builder, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    names = [b.name("split") for _ in sizes]
    if b.opset < 13:
        b.nodes.append(helper.make_node("Split", [x.name], names, axis=axis, split=list(sizes)))
    else:
        b.nodes.append(helper.make_node("Split", [x.name, b.ints(*sizes)], names, axis=axis))
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return [Value(name, shape) for name, shape in zip(names, shapes, strict=True)]


def _parts_of_concat(b: Builder, x: Value) -> Value:
    """Join two halves, or x and something, and take a part again: by Slice, Split or Gather."""
    axis = len(x.shape) - 1
    size = x.shape[axis]
    other = b.op(b.pick(["Neg", "Relu"]), x, shape=x.shape)
    parts = (x, other) if b.chance(0.5) else (other, x)
    joined = b.op("Concat", *parts, shape=(*x.shape[:-1], 2 * size), axis=b.pick([axis, -1]))
    form, start = b.pick(["slice", "split", "gather"]), int(b.pick([0, size, size, 1]))
    if form == "slice":
        return _slice(b, joined, axis, start, start + size)
    if form == "split":
        left, right = _split(b, joined, axis, (size, size))
        return b.op("Add", left, right, shape=x.shape) if b.chance(0.5) else b.pick([left, right])
    order = np.arange(size) + start if b.chance(0.5) else b.rng.integers(0, size, size=size) + start
    order = order - 2 * size if b.chance(0.3) and b.opset >= 11 else order
    return b.op("Gather", joined, b.const(order, np.int64, plain=True), shape=x.shape, axis=axis)


def _gathers(b: Builder, x: Value) -> Value:
    """Gather of Gather, and one of an axis that was new."""
    axis = len(x.shape) - 1
    for _ in range(2):
        order = b.rng.integers(0, x.shape[axis], size=x.shape[axis])
        x = b.op("Gather", x, b.const(order, np.int64, plain=True), shape=x.shape, axis=b.pick([axis, -1]))
    if b.chance(0.5):
        return x
    raised = _squeezed(b, x, "Unsqueeze")
    return b.op("Gather", raised, b.const(np.array(0), np.int64, plain=True), shape=x.shape, axis=1)


# Blocks over anything


def _clip(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    low = float(b.pick([0.0, -1.0, -2.0])) if low is None else low
    high = float(b.pick([6.0, 1.0, 2.0])) if high is None else high
    if b.opset < 11:
        return b.op("Clip", x, shape=x.shape, min=low, max=high)
    return b.op("Clip", x, b.const(np.float32(low), plain=True), b.const(np.float32(high), plain=True), shape=x.shape)


def _clips(b: Builder, x: Value) -> Value:
    for _ in range(int(b.pick([1, 2, 3]))):
        x = b.op("Relu", x, shape=x.shape) if b.chance(0.5) else _clip(b, x)
    return x


def _hardswish(b: Builder, x: Value) -> Value:
    three, six = (b.const(np.full(b.pick([(), (1,)]), number, np.float32), plain=True) for number in (3, 6))
    moved = b.op("Add", *((x, three) if b.chance(0.7) else (three, x)), shape=x.shape)
    if b.opset >= 12 and b.chance(0.4):
        clipped = b.op("Min", b.op("Relu", moved, shape=x.shape), six, shape=x.shape)
    else:
        clipped = _clip(b, moved, 0.0, 6.0)
    sixth = b.const(np.float32(1 / 6), plain=True)

    def divide(value: Value) -> Value:
        return b.op("Div", value, six, shape=x.shape) if b.chance(0.6) else b.op("Mul", value, sixth, shape=x.shape)

    form = b.pick(["gate", "inside", "outside"])
    if form == "gate":
        return divide(clipped)
    if form == "inside":
        return b.op("Mul", x, divide(clipped), shape=x.shape)
    return divide(b.op("Mul", clipped, x, shape=x.shape))


def _activation(b: Builder, x: Value) -> Value:
    form = b.pick(["gelu", "tanh-gelu", "silu", "mish", "sigmoid", "hard"])
    if form == "silu":
        return b.op("Mul", x, b.op("Sigmoid", x, shape=x.shape), shape=x.shape)
    if form == "mish":
        return b.op("Mul", x, b.op("Tanh", b.op("Softplus", x, shape=x.shape), shape=x.shape), shape=x.shape)
    if form == "sigmoid":
        return b.op(b.pick(["Sigmoid", "Tanh", "Softplus", "LeakyRelu", "Elu"]), x, shape=x.shape)
    if form == "hard":
        return b.op("HardSigmoid", x, shape=x.shape, alpha=float(b.pick([0.2, 1 / 6])), beta=0.5)

    def number(value: float) -> str:
        return b.const(np.float32(value), plain=True)

    half = b.op("Mul", x, number(0.5), shape=x.shape) if b.chance(0.5) else None
    if form == "gelu":
        inner = b.op("Erf", b.op("Div", x, number(2**0.5), shape=x.shape), shape=x.shape)
    else:
        cubed = b.op("Mul", b.op("Pow", x, number(3), shape=x.shape), number(0.044715), shape=x.shape)
        scaled = b.op("Mul", b.op("Add", x, cubed, shape=x.shape), number(0.7978845608), shape=x.shape)
        inner = b.op("Tanh", scaled, shape=x.shape)
    one_more = b.op("Add", inner, number(1), shape=x.shape)
    if half is not None:
        return b.op("Mul", half, one_more, shape=x.shape)
    return b.op("Mul", b.op("Mul", x, one_more, shape=x.shape), number(0.5), shape=x.shape)


def _neutral(b: Builder, x: Value) -> Value:
    rank = len(x.shape)
    form = b.pick(["identity", "dropout", "mul", "add", "transpose", "cast", "concat", "reshape", "expand"])
    if form == "dropout":
        return b.op("Dropout", x, shape=x.shape)
    if form == "mul":
        return b.op("Mul", x, b.const(np.ones((1,) * b.pick([0, 1, rank]), np.float32), plain=True), shape=x.shape)
    if form == "add":
        return b.op("Add", b.const(np.zeros((), np.float32), plain=True), x, shape=x.shape)
    if form == "transpose":
        return b.op("Transpose", x, shape=x.shape, perm=list(range(rank)))
    if form == "cast":
        return b.op("Cast", x, shape=x.shape, to=TensorProto.FLOAT)
    if form == "concat":
        return b.op("Concat", x, shape=x.shape, axis=0)
    if form == "reshape":
        return _reshape(b, x, x.shape)
    if form == "expand":
        return b.op("Expand", x, b.ints(*(1,) * rank), shape=x.shape)
    return b.op("Identity", x, shape=x.shape)


def _casts(b: Builder, x: Value) -> Value:
    chain = b.pick([["DOUBLE"], ["DOUBLE", "FLOAT", "DOUBLE"], ["FLOAT16"], ["DOUBLE", "DOUBLE"], ["BOOL", "INT32"]])
    for kind in chain:
        x = b.op("Cast", x, shape=x.shape, to=TensorProto.DataType.Value(kind))
    return b.op("Cast", x, shape=x.shape, to=TensorProto.FLOAT)


def _transposes(b: Builder, x: Value) -> Value:
    """One or two transpositions, operators that work on other axes too, and one back."""
    rank = len(x.shape)
    made = [0, *range(1, rank)]
    for _ in range(int(b.pick([1, 2]))):
        perm = [0, *(1 + b.rng.permutation(rank - 1))] if b.chance(0.8) else list(range(rank))[::-1]
        perm = [int(axis) for axis in perm]
        x = b.op("Transpose", x, shape=[x.shape[axis] for axis in perm], perm=perm)
        made = [made[axis] for axis in perm]
        x = _across(b, x) if b.chance(0.6) else x
    back = [made.index(axis) for axis in range(rank)]
    return b.op("Transpose", x, shape=[x.shape[axis] for axis in back], perm=back)


def _across(b: Builder, x: Value) -> Value:
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
        return b.op("Sub", x, _reduce(b, b.pick(["ReduceMax", "ReduceMean"]), other, (axis,)), shape=x.shape)
    size = x.shape[axis]
    if kind == "pad" and b.opset >= 11:
        pads = [0] * (2 * len(x.shape))
        pads[axis] = pads[axis + len(x.shape)] = 1
        wide = (*x.shape[:axis], size + 2, *x.shape[axis + 1 :])
        return _slice(b, b.op("Pad", other, b.ints(*pads), shape=wide), axis, 1, size + 1)
    wide = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return _slice(b, b.op("Concat", x, other, shape=wide, axis=axis), axis, size // 2, size // 2 + size)


def _reshapes(b: Builder, x: Value) -> Value:
    size = int(np.prod(x.shape[1:]))
    y = x
    for _ in range(int(b.pick([1, 2, 3]))):
        form = b.pick(["reshape", "flatten", "unsqueeze", "zero"])
        if form == "flatten":
            y = _flatten(b, y)
        elif form == "unsqueeze":
            y = _squeezed(b, _squeezed(b, y, "Unsqueeze"), "Squeeze")
        elif form == "zero" and len(y.shape) > 1:
            y = b.op("Reshape", y, b.ints(0, -1), shape=(y.shape[0], size))
        else:
            split = b.pick([d for d in (1, 2, 3, size) if size % d == 0])
            y = _reshape(b, y, (x.shape[0], split, size // split))
    return _reshape(b, y, x.shape)


def _squeezed(b: Builder, x: Value, op_type: str) -> Value:
    shape = (x.shape[0], 1, *x.shape[1:]) if op_type == "Unsqueeze" else (x.shape[0], *x.shape[2:])
    if b.opset < 13:
        return b.op(op_type, x, shape=shape, axes=[1])
    return b.op(op_type, x, b.ints(1), shape=shape)


def _constant_chain(b: Builder, x: Value) -> Value:
    y = Value(b.const(b.numbers(x.shape[-1], positive=True)), (x.shape[-1],))
    for _ in range(int(b.pick([1, 2, 3]))):
        op_type = b.pick(["Exp", "Neg", "Abs", "Tanh", "Mul", "Add", "Identity"])
        more = [b.const(b.numbers(x.shape[-1]))] if op_type in {"Mul", "Add"} else []
        y = b.op(op_type, y, *more, shape=y.shape)
        if op_type == "Exp":
            y = b.op("Tanh", y, shape=y.shape)
    return b.op(b.pick(["Add", "Mul"]), x, y, shape=x.shape)


def _shape_chain(b: Builder, x: Value) -> Value:
    """Flatten by Shape, Gather, Concat, Reshape, and back."""
    size = int(np.prod(x.shape[1:]))
    shape = b.op("Shape", x, shape=(len(x.shape),))
    first = b.op("Gather", shape, b.const(np.array([0]), np.int64, plain=True), shape=(1,), axis=0)
    wanted = b.op("Concat", first, b.ints(b.pick([-1, size])), shape=(2,), axis=0)
    zeros = {"allowzero": 1} if b.opset >= 14 and b.chance(0.4) else {}
    y = b.op("Reshape", x, wanted, shape=(x.shape[0], size), **zeros)
    return b.op("Reshape", b.op("Relu", y, shape=y.shape) if b.chance(0.5) else y, shape, shape=x.shape, **zeros)


def _body_graph(inner: Builder, result: Value, inputs: Sequence[Any] = (), extra: Sequence[Any] = ()) -> Any:
    """The body of an If or a Loop; its result is always a value of its own."""
    out = inner.op("Identity", result, shape=result.shape)
    outputs = [helper.make_tensor_value_info(out.name, TensorProto.FLOAT, [None] * len(result.shape))]
    return helper.make_graph(inner.nodes, inner.name("body"), list(inputs), [*extra, *outputs])


def _safe_block(b: Builder, x: Value) -> Value:
    return b.pick([_neutral, _affine, _clips, _hardswish, _transposes, _reshapes, _constant_chain])(b, x)  # type: ignore[no-any-return]


def _if(b: Builder, x: Value) -> Value:
    if b.chance(0.5):
        condition = b.const(np.array(b.chance(0.5)), bool, plain=True)
    else:
        total = b.op("ReduceMax", Value(next(iter(b.inputs)), ()), shape=(), keepdims=0)
        condition = b.op("Greater", total, b.const(np.float32(0), plain=True), shape=()).name
    bodies = []
    for _ in range(2):
        inner = b.body()
        bodies.append(_body_graph(inner, _safe_block(inner, x)))
    return b.op("If", condition, shape=x.shape, then_branch=bodies[0], else_branch=bodies[1])


def _loop(b: Builder, x: Value) -> Value:
    count = b.const(np.array(2, np.int64), np.int64, plain=True)
    going = b.const(np.ones((), bool), bool, plain=True)
    inner = b.body()
    step, again, carried = inner.name("i"), inner.name("cond"), inner.name("carried")
    inputs = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(again, TensorProto.BOOL, []),
        helper.make_tensor_value_info(carried, TensorProto.FLOAT, [None] * len(x.shape)),
    ]
    y = inner.op("Add", _safe_block(inner, Value(carried, x.shape)), x, shape=x.shape)
    onward = inner.op("Identity", again, shape=())
    flag = helper.make_tensor_value_info(onward.name, TensorProto.BOOL, [])
    body = _body_graph(inner, y, inputs, [flag])
    return b.op("Loop", count, going, x, shape=x.shape, body=body)


# Blocks over matrices (N, K) and sequences (N, T, K)


def _product(b: Builder, x: Value) -> Value:
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


def _products(b: Builder, x: Value) -> Value:
    return _product(b, _product(b, x))


def _product_affine(b: Builder, x: Value) -> Value:
    y = _product(b, x)
    return _norm(b, y) if len(y.shape) == 2 and b.chance(0.5) else _affine(b, y)


def _layer_norm(b: Builder, x: Value) -> Value:
    k = x.shape[-1]
    if b.chance(0.3):
        square = b.op("Mul", x, x, shape=x.shape)
        mean = _reduce(b, "ReduceMean", square, (-1,))
        root = b.op(
            "Sqrt", b.op("Add", mean, b.const(np.float32(1e-6), plain=True), shape=mean.shape), shape=mean.shape
        )
        return b.op("Mul", b.op("Div", x, root, shape=x.shape), b.const(b.numbers(k)), shape=x.shape)
    return _normalized(b, x, _reduce(b, "ReduceMean", x, (-1,)), (-1,), (k,))


def _attention(b: Builder, x: Value) -> Value:
    """Two heads; one product for Q, K and V, cut in three; a mask that is added, or replaces, or none."""
    if len(x.shape) != 3 or x.shape[2] % 2:
        return _product(b, x)
    n, t, k = x.shape
    packed = b.op("MatMul", x, b.const(b.numbers(k, 3 * k, scale=k**-0.5)), shape=(n, t, 3 * k))
    if b.chance(0.6):
        packed = b.op("Add", packed, b.const(b.numbers(3 * k)), shape=packed.shape)
    cut = b.chance(0.5)
    thirds = _split(b, packed, 2, (k, k, k)) if cut else [_slice(b, packed, 2, i * k, i * k + k) for i in range(3)]
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


def _gather(b: Builder, x: Value) -> Value:
    order = b.rng.permutation(x.shape[-1])
    return b.op("Gather", x, b.const(order, np.int64, plain=True), shape=x.shape, axis=len(x.shape) - 1)


def _residual(b: Builder, x: Value) -> Value:
    y = _safe_block(b, x)
    return b.op("Add", *((x, y) if b.chance(0.5) else (y, x)), shape=x.shape)


_ANY: tuple[Block, ...] = (
    _affine, _clips, _hardswish, _hardswish, _activation, _neutral, _neutral, _casts, _transposes, _reshapes,
    _constant_chain, _shape_chain, _if, _loop, _residual, _concat_of_slices, _slices, _parts_of_concat, _gathers,
)  # fmt: skip
_IMAGE: tuple[Block, ...] = (
    _conv, _conv_norm, _conv_norm, _conv_affine, _conv_affine, _affine_conv, _affine_conv, _branches, _branches,
    _pad_conv, _pool, _norm, _instance_norm, _mean_of_conv, _rotary,
)  # fmt: skip
_ROWS: tuple[Block, ...] = (_product, _products, _product_affine, _product_affine, _layer_norm, _gather, _attention)

BLOCKS = tuple(dict.fromkeys((*_ANY, *_IMAGE, *_ROWS, _global_pool)))


def model(seed: int) -> Generated:
    """The model of this seed: always the same."""
    b = Builder(seed)
    shape = b.pick([(BATCH, 4, 8, 8), (BATCH, 3, 6, 6), (BATCH, 6), (BATCH, 5, 4)])
    x = Value(b.name("x"), shape)
    b.inputs[x.name] = shape
    wanted = int(b.rng.integers(3, 20))
    values = [x]
    while len(b.nodes) < wanted:
        x = _block(b, x)(b, x)
        values.append(x)
        if b.chance(0.12):
            _hazard(b, b.pick(values[1:]))
        if b.chance(0.05):
            _hazard(b, _made(b))
    b.outputs.append(x if b.chance(0.8) else b.op("Identity", x, shape=x.shape))
    return _finish(b, shape)


def _block(b: Builder, x: Value) -> Block:
    if b.chance(0.45):
        found: Block = b.pick(_ANY)
        return found
    if len(x.shape) == 4:
        return _global_pool if b.chance(0.06) else b.pick(_IMAGE)
    return b.pick(_ROWS)  # type: ignore[no-any-return]


def _made(b: Builder) -> Value:
    """A value inside some block: of its shape only the name is known."""
    kept = [node for node in b.nodes if node.op_type in {"Conv", "MatMul", "Add", "Mul", "Transpose", "Relu"}]
    return Value(b.pick(kept).output[0] if kept else b.nodes[-1].output[0], ())


def _hazard(b: Builder, value: Value) -> None:
    """Let something else see a value that passes would like to remove."""
    if any(out.name == value.name for out in b.outputs) or value.name in b.inputs:
        return
    form = b.pick(["output", "fan-out", "capture"])
    if form == "output":
        b.outputs.append(value)
        return
    if form == "fan-out":
        b.outputs.append(b.op(b.pick(["Neg", "Identity", "Abs"]), b.op("Cast", value, shape=(), to=1), shape=()))
        return
    bodies = []
    for op_type in ("Neg", "Identity"):
        inner = b.body()
        y = inner.op(op_type, value, shape=())
        flat = inner.op("ReduceMax", inner.op("Cast", y, shape=(), to=1), shape=(), keepdims=0)
        bodies.append(_body_graph(inner, flat))
    condition = b.const(np.array(b.chance(0.5)), bool, plain=True)
    b.outputs.append(b.op("If", condition, shape=(), then_branch=bodies[0], else_branch=bodies[1]))


def _finish(b: Builder, shape: tuple[int, ...]) -> Generated:
    declared: list[int | str] = ["batch" if b.dynamic else shape[0], *shape[1:]]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, declared) for name in b.inputs]
    stored = [numpy_helper.from_array(array, name) for name, array in b.weights.items()]
    given = list(b.weights) if b.old_ir else b.overridable
    inputs += [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in stored
        if tensor.name in given
    ]
    kinds = {node.output[0]: _kind(node) for node in b.nodes}
    outputs = [helper.make_tensor_value_info(v.name, kinds.get(v.name, TensorProto.FLOAT), None) for v in b.outputs]
    whole = helper.make_graph(b.nodes, "generated", inputs, outputs, stored)
    ir_version = 3 if b.old_ir else min(10, helper.find_min_ir_version_for([helper.make_opsetid("", b.opset)]) + 2)
    proto = helper.make_model(whole, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=ir_version)
    batches = (BATCH, OTHER_BATCH) if b.dynamic else (BATCH,)
    rng = np.random.default_rng(b.opset)
    feeds = [
        {name: rng.normal(size=(batch, *sizes[1:])).astype(np.float32) for name, sizes in b.inputs.items()}
        for batch in batches
    ]
    return Generated(proto, feeds)


def _kind(node: onnx.NodeProto) -> int:
    if node.op_type == "Cast":
        return int(node.attribute[0].i)
    return int(TensorProto.INT64) if node.op_type == "Shape" else int(TensorProto.FLOAT)


def without(generated: Generated, index: int) -> Generated | None:
    """The same without node `index`, whose users read its first input instead; None where it has none."""
    proto = onnx.ModelProto()
    proto.CopyFrom(generated.proto)
    node = proto.graph.node[index]
    if not node.input or len(node.output) != 1:
        return None
    old, new = node.output[0], node.input[0]
    if any(value.name == old for value in proto.graph.output):
        outputs = [value for value in proto.graph.output if value.name != old]
        if not outputs:
            return None
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    del proto.graph.node[index]
    _rename(proto.graph.node, old, new)
    return replace(generated, proto=proto)


def _rename(nodes: Any, old: str, new: str) -> None:
    for node in nodes:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
        for attribute in node.attribute:
            _rename(attribute.g.node, old, new)
