"""Round stored weights again with error feedback, for the activations that they are multiplied by (GPTQ; see `gptq`).

The scales stay those of rounding to nearest; only integers change. A convolution is a product: its weight, one row per
output channel, times the rows of im2col.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.calibrate import MASK
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Skip
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.kernel_pairs import KernelPair, dequantizer, is_stored_by_output, weight_shape
from modelopt.quant.numerics import im2col
from modelopt.quant.numerics.gptq import gptq
from modelopt.quant.numerics.hessian import Hessian
from modelopt.quant.numerics.scheme import Grid

SAMPLES = 128
"""How many samples are run, at most."""

_MOST_INPUTS = 2304  # a hessian has the square of that, and its factorization takes the cube
_MOST_BYTES = 256 << 20  # of hessians at a time; what does not fit is measured in another run
_POSITIONS = (64, 1024)  # output positions of a convolution, for each sample: at least and at most
_ROWS_PER_INPUT = 32  # over all samples: so many rows for each column of a hessian are taken as enough (a guess)


class WeightRounding(Enum):
    """How weights become integers.

    Attributes:
        NEAREST: Each by itself.
        GPTQ: With the rounding error of earlier columns compensated by later ones, on calibration data.
    """

    NEAREST = "nearest"
    GPTQ = "gptq"


def round_again(reference: ir.Model, kernels: Sequence[KernelPair], grid: Grid, ctx: Context) -> Changes:
    """Round the weights of `kernels` with error feedback, in place: a rewrite for each kernel that changes.

    Args:
        reference: The float model; it is not changed.
        kernels: The kernels whose weights are rounded.
        grid: The integers that weights may use.
        ctx: Lends the runner, the samples and the progress.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    skipped: list[Skip] = []
    todo: list[KernelPair] = []
    for kernel in kernels:
        reason = _why_not(kernel)
        if reason is None:
            todo.append(kernel)
        else:
            skipped.append(Skip(graph.label(kernel.integer), f"its weight is rounded to nearest: {reason}"))
    done = 0
    for batch in _batches(todo):
        hessians = _hessians(reference, batch, ctx)
        done += sum(_round(kernel, hessians[_Input.of(kernel)], grid) for kernel in batch)
    return Changes(done, tuple(skipped))


def _why_not(kernel: KernelPair) -> str | None:
    reason = kernel_pairs.why_not(kernel)
    if reason is not None or kernel.float is None:
        return reason
    node, shape = kernel.float, weight_shape(kernel.integer)
    reader = dequantizer(kernel.integer.inputs[1])
    stored = None if reader is None else reader.inputs[0]
    if graph.constant_tensor(node.inputs[1]) is None or stored is None:
        return "its weight is not constant"
    if (graph.rank(reader.inputs[1] if reader is not None else None) or 0) > 1:
        return "its scales are by block"
    if len(stored.uses()) > 1 or len(kernel.integer.inputs[1].uses()) > 1:  # type: ignore[union-attr]
        return "its weight is shared"
    if node.op_type == "Conv":
        if graph.attribute_string(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
            return "its padding depends on the image's size"
    elif len(shape) != 2:
        return "it is not a product by a matrix"
    inputs = _inputs(kernel)
    return f"each output sums over {inputs} inputs: feedback would take long" if inputs > _MOST_INPUTS else None


def _inputs(kernel: KernelPair) -> int:
    """How many inputs each output sums over."""
    shape = weight_shape(kernel.integer)
    return int(np.prod(shape)) // shape[0 if is_stored_by_output(kernel.integer) else 1]


def _groups(kernel: KernelPair) -> int:
    return graph.attribute_int(kernel.integer, "group", 1) if kernel.integer.op_type == "Conv" else 1


@dataclass(frozen=True)
class _Input:
    """What kernels multiply their weights by; those that read the same share hessians.

    Attributes:
        name: The activation.
        groups: Groups of channels, each with a hessian of its own.
        window: How a convolution reads it; None for a product.
    """

    name: str
    groups: int = 1
    window: im2col.Window | None = None

    @classmethod
    def of(cls, kernel: KernelPair) -> _Input:
        node = kernel.float
        if node is None or node.inputs[0] is None:
            raise ValueError("the kernel was not accepted")
        name = node.inputs[0].name or ""
        if node.op_type != "Conv":
            return cls(name)
        return cls(name, _groups(kernel), im2col.window_of(node, weight_shape(kernel.integer)[2:]))


def _batches(kernels: Sequence[KernelPair]) -> Iterator[list[KernelPair]]:
    """Kernels in order, as many at a time as have hessians of no more than `_MOST_BYTES`."""
    batch: list[KernelPair] = []
    sizes: dict[_Input, int] = {}
    for kernel in kernels:
        read, size = _Input.of(kernel), 4 * _groups(kernel) * _inputs(kernel) ** 2
        if batch and read not in sizes and sum(sizes.values()) + size > _MOST_BYTES:
            yield batch
            batch, sizes = [], {}
        batch.append(kernel)
        sizes[read] = size
    if batch:
        yield batch


def _hessians(model: ir.Model, kernels: Sequence[KernelPair], ctx: Context) -> Mapping[_Input, list[Hessian]]:
    """For each input a hessian per group of channels."""
    found = {_Input.of(kernel): [Hessian(_inputs(kernel)) for _ in range(_groups(kernel))] for kernel in kernels}
    names = sorted({read.name for read in found})
    total = max(1, min(SAMPLES, len(ctx.calibration or ())))
    for arrays in ctx.runner.run(model, kernel_pairs.feeds(ctx, SAMPLES, "rounding weights"), outputs=names):
        seen = dict(zip(names, arrays, strict=True))
        for read, hessians in found.items():
            array = seen[read.name]
            if not np.abs(array).max(initial=0) < MASK:
                continue  # numbers from here on are masks, not activations
            most = int(np.clip(_ROWS_PER_INPUT * hessians[0].width // total, *_POSITIONS))
            rows = array
            if read.window is not None:
                rows = im2col.rows(array, read.window, im2col.at_random(most))
                rows = rows.reshape(len(rows), -1)
            for hessian, part in zip(hessians, np.split(rows, len(hessians), axis=-1), strict=True):
                hessian.observe(part)
    return found


def _round(kernel: KernelPair, hessians: Sequence[Hessian], grid: Grid) -> bool:
    """Store other integers for one kernel; says whether any differ."""
    node, reader = kernel.integer, dequantizer(kernel.integer.inputs[1])
    weight = None if kernel.float is None else graph.constant(kernel.float.inputs[1])
    parameters = [] if reader is None else [graph.constant(value) for value in reader.inputs]
    if reader is None or weight is None or len(parameters) != 3 or any(array is None for array in parameters):
        return False
    stored, scale, zero_point = (np.asarray(array) for array in parameters)
    by_output = is_stored_by_output(node)
    matrix = weight.reshape(weight.shape[0], -1) if by_output else weight.T
    scales, zeros = (np.broadcast_to(each.reshape(-1, 1), (len(matrix), 1)) for each in (scale, zero_point))
    cut = (np.split(each, len(hessians)) for each in (matrix, scales, zeros))
    parts = [
        gptq(rows, hessian.matrix(), step, zero, grid.low, grid.high)
        for hessian, rows, step, zero in zip(hessians, *cut, strict=True)
    ]
    numbers = np.concatenate(parts)
    new = (numbers if by_output else numbers.T).reshape(stored.shape).astype(stored.dtype)
    if np.array_equal(new, stored) or reader.inputs[0] is None:
        return False
    graph.set_constant(reader.inputs[0], new)
    return True
