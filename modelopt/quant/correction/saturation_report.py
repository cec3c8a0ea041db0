"""Which integer kernels of a Q/DQ model saturate in 16-bit sums on x86 without VNNI; it is computed on any machine.

Weights within the bound of `saturation.worst_pairs` do not saturate, whatever the input. The other kernels are
simulated on their inputs for a few samples. Each is simulated by itself: its input is exact, without the errors that
saturation in earlier kernels would cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Fact, Skip
from modelopt.quant.numerics import im2col, saturation
from modelopt.quant.numerics.saturation import Saturation
from modelopt.quant.static.kernels import KERNELS

_SAMPLES = 8
_ROWS = 256  # per kernel, over all samples: a choice that keeps the simulation to seconds


@dataclass(frozen=True)
class _IntegerKernel:
    """A kernel with a u8 activation, whose zero point is given, and an int8 weight."""

    node: ir.Node
    source: ir.Value
    zero_point: int
    weight: np.ndarray


def report(model: ir.Model, ctx: Context) -> tuple[tuple[Skip, ...], dict[str, Fact]]:
    """The kernels that saturate or could, each with the reason, and how many.

    Args:
        model: A model in Q/DQ form; it is not changed.
        ctx: Lends the runner and the calibration samples.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    unproven = [kernel for kernel in _kernels(model) if not _is_safe(kernel)]
    simulated = [kernel for kernel in unproven if kernel.node.graph is model.graph and _has_one_product(kernel)]
    found = {kernel.node: f"{_COULD_SATURATE}; it was not simulated" for kernel in unproven}
    for kernel, loss in _simulated(model, simulated, ctx):
        if loss.saturated:
            found[kernel.node] = (
                f"at risk on x86-avx2: {100 * loss.share:.2g}% of its 16-bit sums saturate,"
                f" an error of {loss.relative_error:.1%} of its result"
            )
        else:
            found[kernel.node] = f"{_COULD_SATURATE}; none did on {_SAMPLES} samples"
    saturating = sum(reason.startswith("at risk") for reason in found.values())
    facts: dict[str, Fact] = {"kernels_saturating": saturating, "kernels_that_could_saturate": len(found)}
    return tuple(Skip(graph.label(node), reason) for node, reason in found.items()), facts


_COULD_SATURATE = "some of its 16-bit sums could saturate on x86-avx2"


def _kernels(model: ir.Model) -> Iterator[_IntegerKernel]:
    for node in graph.all_nodes(model):
        if node.op_type not in KERNELS or node.domain not in graph.STANDARD_DOMAINS:
            continue
        left, right = (None if value is None else value.producer() for value in node.inputs[:2])
        if left is None or right is None or {left.op_type, right.op_type} != {"DequantizeLinear"}:
            continue
        weight, zero_point = graph.constant(right.inputs[0]), _zero_point(left)
        if left.inputs[0] is not None and weight is not None and weight.dtype == np.int8 and zero_point is not None:
            yield _IntegerKernel(node, left.inputs[0], zero_point, weight)


def _zero_point(node: ir.Node) -> int | None:
    """The zero point of a DequantizeLinear of u8; None for another type."""
    zero_point = graph.constant(graph.input_at(node, 2))
    return (
        None if zero_point is None or zero_point.dtype != np.uint8 or zero_point.size != 1 else int(zero_point.item())
    )


def _is_safe(kernel: _IntegerKernel) -> bool:
    matrices = saturation.matrices_of(kernel.node, kernel.weight.shape)
    if matrices is None:
        return True
    return all(saturation.worst_pairs(m).max(initial=0) <= saturation.MOST for m in matrices(kernel.weight))


def _has_one_product(kernel: _IntegerKernel) -> bool:
    """Whether all rows of the input are multiplied by the same matrix: not in a MatMul by a stack of matrices."""
    return kernel.node.op_type == "Conv" or kernel.weight.ndim <= 2


def _simulated(
    model: ir.Model, kernels: Sequence[_IntegerKernel], ctx: Context
) -> Iterator[tuple[_IntegerKernel, Saturation]]:
    if not kernels or ctx.calibration is None:
        return
    count = min(_SAMPLES, len(ctx.calibration))
    indices = sorted({int(i) for i in np.linspace(0, len(ctx.calibration) - 1, count)})
    feeds: list[Mapping[str, np.ndarray]] = [sample.feeds for sample in ctx.calibration.select(indices)]
    names = list(dict.fromkeys(kernel.source.name or "" for kernel in kernels))
    seen: list[Saturation] = [Saturation()] * len(kernels)
    for arrays in ctx.runner.run(model, feeds, outputs=names):
        integers = dict(zip(names, arrays, strict=True))
        for i, kernel in enumerate(kernels):
            seen[i] += _loss(kernel, integers[kernel.source.name or ""], -(-_ROWS // len(feeds)))
    yield from zip(kernels, seen, strict=True)


def _loss(kernel: _IntegerKernel, integers: np.ndarray, limit: int) -> Saturation:
    matrices = saturation.matrices_of(kernel.node, kernel.weight.shape)
    if matrices is None:
        return Saturation()
    if kernel.node.op_type == "Conv":
        window = im2col.window_of(kernel.node, kernel.weight.shape[2:])
        taken = im2col.rows(integers, window, im2col.evenly(limit), kernel.zero_point)
        rows = saturation.conv_rows(taken, graph.attribute_int(kernel.node, "group", 1))
    else:
        flat = integers.reshape(-1, integers.shape[-1])
        rows = [flat[im2col.evenly(limit)(len(flat))]]
    total = Saturation()
    for part, matrix in zip(rows, matrices(kernel.weight), strict=True):
        total += saturation.simulate(part, matrix, kernel.zero_point)
    return total
