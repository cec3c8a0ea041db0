"""Blocks with bodies, which capture values of the graph around them, and residual connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.campaigns.elementwise_blocks import (
    affine_block,
    clips_block,
    constant_chain_block,
    hardswish_block,
    neutral_block,
)
from tests.campaigns.layout_blocks import reshapes_block, transposes_block
from tests.campaigns.model_builder import Block, Builder, Value


def body_graph(inner: Builder, result: Value, inputs: Sequence[Any] = (), extra: Sequence[Any] = ()) -> Any:
    """The body of an If or a Loop; its result is always a value of its own."""
    out = inner.op("Identity", result, shape=result.shape)
    outputs = [helper.make_tensor_value_info(out.name, TensorProto.FLOAT, [None] * len(result.shape))]
    return helper.make_graph(inner.nodes, inner.name("body"), list(inputs), [*extra, *outputs])


def safe_block(b: Builder, x: Value) -> Value:
    blocks: list[Block] = [
        *(neutral_block, affine_block, clips_block, hardswish_block),
        *(transposes_block, reshapes_block, constant_chain_block),
    ]
    chosen: Block = b.pick(blocks)
    return chosen(b, x)


def if_block(b: Builder, x: Value) -> Value:
    if b.chance(0.5):
        condition = b.const(np.array(b.chance(0.5)), bool, plain=True)
    else:
        total = b.op("ReduceMax", Value(next(iter(b.inputs)), ()), shape=(), keepdims=0)
        condition = b.op("Greater", total, b.const(np.float32(0), plain=True), shape=()).name
    bodies = []
    for _ in range(2):
        inner = b.body()
        bodies.append(body_graph(inner, safe_block(inner, x)))
    return b.op("If", condition, shape=x.shape, then_branch=bodies[0], else_branch=bodies[1])


def loop_block(b: Builder, x: Value) -> Value:
    count = b.const(np.array(2, np.int64), np.int64, plain=True)
    going = b.const(np.ones((), bool), bool, plain=True)
    inner = b.body()
    step, again, carried = inner.name("i"), inner.name("cond"), inner.name("carried")
    inputs = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(again, TensorProto.BOOL, []),
        helper.make_tensor_value_info(carried, TensorProto.FLOAT, [None] * len(x.shape)),
    ]
    y = inner.op("Add", safe_block(inner, Value(carried, x.shape)), x, shape=x.shape)
    onward = inner.op("Identity", again, shape=())
    flag = helper.make_tensor_value_info(onward.name, TensorProto.BOOL, [])
    body = body_graph(inner, y, inputs, [flag])
    return b.op("Loop", count, going, x, shape=x.shape, body=body)


def residual_block(b: Builder, x: Value) -> Value:
    y = safe_block(b, x)
    return b.op("Add", *((x, y) if b.chance(0.5) else (y, x)), shape=x.shape)
