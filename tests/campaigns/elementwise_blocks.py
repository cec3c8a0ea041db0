"""Blocks of operators that work on each element: affine maps, activations, casts, what changes nothing."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.campaigns.model_builder import Builder, Value, add_reshape


def affine_block(b: Builder, x: Value) -> Value:
    rank, axis = len(x.shape), 1 if len(x.shape) == 4 else len(x.shape) - 1
    per_channel = [1] * rank
    per_channel[axis] = x.shape[axis]
    shapes = [(), (1,), tuple(per_channel), tuple(per_channel[axis:]), (1,) * rank, (x.shape[-1],)]
    shape = b.pick(shapes)
    op_type = b.pick(["Mul", "Add", "Sub", "Div"])
    constant = b.const(b.numbers(*shape, positive=op_type == "Div"), plain=op_type == "Div")
    swapped = op_type != "Div" and b.chance(0.3)
    return b.op(op_type, *((constant, x) if swapped else (x, constant)), shape=x.shape)


def add_clip(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    low = float(b.pick([0.0, -1.0, -2.0])) if low is None else low
    high = float(b.pick([6.0, 1.0, 2.0])) if high is None else high
    if b.opset < 11:
        return b.op("Clip", x, shape=x.shape, min=low, max=high)
    return b.op("Clip", x, b.const(np.float32(low), plain=True), b.const(np.float32(high), plain=True), shape=x.shape)


def clips_block(b: Builder, x: Value) -> Value:
    for _ in range(int(b.pick([1, 2, 3]))):
        x = b.op("Relu", x, shape=x.shape) if b.chance(0.5) else add_clip(b, x)
    return x


def hardswish_block(b: Builder, x: Value) -> Value:
    three, six = (b.const(np.full(b.pick([(), (1,)]), number, np.float32), plain=True) for number in (3, 6))
    moved = b.op("Add", *((x, three) if b.chance(0.7) else (three, x)), shape=x.shape)
    if b.opset >= 12 and b.chance(0.4):
        clipped = b.op("Min", b.op("Relu", moved, shape=x.shape), six, shape=x.shape)
    else:
        clipped = add_clip(b, moved, 0.0, 6.0)
    sixth = b.const(np.float32(1 / 6), plain=True)

    def divide(value: Value) -> Value:
        return b.op("Div", value, six, shape=x.shape) if b.chance(0.6) else b.op("Mul", value, sixth, shape=x.shape)

    form = b.pick(["gate", "inside", "outside"])
    if form == "gate":
        return divide(clipped)
    if form == "inside":
        return b.op("Mul", x, divide(clipped), shape=x.shape)
    return divide(b.op("Mul", clipped, x, shape=x.shape))


def activation_block(b: Builder, x: Value) -> Value:
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


def neutral_block(b: Builder, x: Value) -> Value:
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
        return add_reshape(b, x, x.shape)
    if form == "expand":
        return b.op("Expand", x, b.ints(*(1,) * rank), shape=x.shape)
    return b.op("Identity", x, shape=x.shape)


def casts_block(b: Builder, x: Value) -> Value:
    chain = b.pick([["DOUBLE"], ["DOUBLE", "FLOAT", "DOUBLE"], ["FLOAT16"], ["DOUBLE", "DOUBLE"], ["BOOL", "INT32"]])
    for kind in chain:
        x = b.op("Cast", x, shape=x.shape, to=TensorProto.DataType.Value(kind))
    return b.op("Cast", x, shape=x.shape, to=TensorProto.FLOAT)


def constant_chain_block(b: Builder, x: Value) -> Value:
    y = Value(b.const(b.numbers(x.shape[-1], positive=True)), (x.shape[-1],))
    for _ in range(int(b.pick([1, 2, 3]))):
        op_type = b.pick(["Exp", "Neg", "Abs", "Tanh", "Mul", "Add", "Identity"])
        more = [b.const(b.numbers(x.shape[-1]))] if op_type in {"Mul", "Add"} else []
        y = b.op(op_type, y, *more, shape=y.shape)
        if op_type == "Exp":
            y = b.op("Tanh", y, shape=y.shape)
    return b.op(b.pick(["Add", "Mul"]), x, y, shape=x.shape)
