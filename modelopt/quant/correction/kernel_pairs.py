"""Integer kernels beside the float ones that they stand for, to measure and mend what quantization did to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.quant.static.plan import Plan, Role

_MATRIX = 2


@dataclass(frozen=True)
class Kernel:
    """A node that computes in int8, twice.

    Attributes:
        float: In the float model; None for one that is not in the main graph and cannot be measured.
        integer: In the quantized model: it reads its weight and activation through DequantizeLinear.
    """

    float: ir.Node | None
    integer: ir.Node


def pairs(reference: ir.Model, model: ir.Model, plan: Plan) -> list[Kernel]:
    """The kernels of `plan` with their twins; `reference` is a clone of `model`, which is not quantized yet."""
    twins = dict(zip(model.graph, reference.graph, strict=True))
    return [Kernel(twins.get(choice.node), choice.node) for choice in plan.choices if choice.role is Role.KERNEL]


def why_not(kernel: Kernel) -> str | None:
    """Why a kernel cannot be measured."""
    if kernel.float is None:
        return "inside a control-flow body it is not measured"
    if (
        any(dequantizer(kernel.integer.inputs[i]) is None for i in (0, 1))
        or len(weight_shape(kernel.integer)) < _MATRIX
    ):
        return "it does not read its operands through DequantizeLinear"
    return None


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes `value`."""
    node = None if value is None else value.producer()
    return node if node is not None and graph.is_standard(node, "DequantizeLinear") else None


def weight_shape(node: ir.Node) -> tuple[int, ...]:
    """The shape of an integer kernel's weight; empty when it is not stored."""
    reader = dequantizer(node.inputs[1])
    stored = None if reader is None else graph.constant_tensor(reader.inputs[0])
    return () if stored is None else tuple(stored.shape.numpy())


def feeds(ctx: Context, most: int, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The first calibration samples; progress is told as `what`."""
    total = min(most, len(ctx.calibration or ()))
    for done, sample in enumerate(islice(ctx.calibration or (), most), 1):
        yield sample.feeds
        ctx.progress(what, done, total)
