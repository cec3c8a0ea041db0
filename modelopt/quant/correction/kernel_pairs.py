"""Pairs of a float kernel and the integer kernel made of it, to measure and correct the error of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.graph import match
from modelopt.quant.static.plan import QuantizationPlan, Role


@dataclass(frozen=True)
class KernelPair:
    """A Conv, Gemm or MatMul before and after quantization.

    Attributes:
        float: The node in the float model; None for a node in a control-flow body, which cannot be measured.
        integer: The node in the quantized model: it reads its weight and activation through DequantizeLinear.
    """

    float: ir.Node | None
    integer: ir.Node


def pairs(reference: ir.Model, model: ir.Model, plan: QuantizationPlan) -> list[KernelPair]:
    """The kernels of `plan`, each with its node in `reference`: a clone of `model`, which is not quantized yet."""
    clones = dict(zip(model.graph, reference.graph, strict=True))
    kernels = [choice.node for choice in plan.choices if choice.role is Role.KERNEL]
    return [KernelPair(clones.get(node), node) for node in kernels]


def why_not(kernel: KernelPair) -> str | None:
    """Why a kernel cannot be measured."""
    if kernel.float is None:
        return "inside a control-flow body it is not measured"
    if any(dequantizer(kernel.integer.inputs[i]) is None for i in (0, 1)) or len(weight_shape(kernel.integer)) < 2:
        return "it does not read its operands through DequantizeLinear"
    return None


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes `value`."""
    return match.producer(value, "DequantizeLinear")


def weight_shape(node: ir.Node) -> tuple[int, ...]:
    """The shape of an integer kernel's weight; empty when it is not stored."""
    reader = dequantizer(node.inputs[1])
    stored = None if reader is None else graph.constant_tensor(reader.inputs[0])
    return () if stored is None else tuple(stored.shape.numpy())


def output_channels(node: ir.Node) -> int:
    """How many output channels an integer kernel has."""
    return weight_shape(node)[0 if is_stored_by_output(node) else -1]


def is_stored_by_output(node: ir.Node) -> bool:
    """Whether a Conv, Gemm or MatMul has its weight stored as (outputs, inputs …), not (inputs, outputs)."""
    return node.op_type == "Conv" or bool(graph.attribute_int(node, "transB", 0))


def feeds(ctx: Context, most: int, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """The first `most` calibration samples; progress is reported as `what`."""
    total = min(most, len(ctx.calibration or ()))
    for done, sample in enumerate(islice(ctx.calibration or (), most), 1):
        yield sample.feeds
        ctx.progress(what, done, total)
