"""Rounding stored weights again, with error feedback, for the activations that they meet (GPTQ; see `gptq`).

The scales stay those of rounding to nearest; only integers change. A convolution is a product of its weight, one row
per output channel, by the windows of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Skip
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.kernel_pairs import Kernel, dequantizer, weight_shape
from modelopt.quant.numerics.gptq import gptq
from modelopt.quant.numerics.hessian import Hessian
from modelopt.quant.numerics.scheme import Grid

SAMPLES = 128
"""How many samples are run, at most."""

_MOST_INPUTS = 2304  # a hessian has the square of that, and its factorization takes the cube
_MOST_BYTES = 256 << 20  # of hessians at a time; what does not fit is measured in another run
_WINDOWS = (64, 1024)  # of a sample that are looked at, at least and at most
_ROWS_PER_INPUT = 32  # with so many rows in all a hessian is known well enough
_BAD = 1e30


class Rounding(Enum):
    """How weights become integers.

    Attributes:
        NEAREST: Each by itself.
        GPTQ: With what earlier columns lost made up for by later ones, on calibration data.
    """

    NEAREST = "nearest"
    GPTQ = "gptq"


@dataclass(frozen=True)
class Rounded:
    """What `round_again` did.

    Attributes:
        kernels: How many kernels have other integers now.
        skipped: Those that were left rounded to nearest, with the reason.
    """

    kernels: int
    skipped: tuple[Skip, ...]


def round_again(reference: ir.Model, kernels: Sequence[Kernel], grid: Grid, ctx: Context) -> Rounded:
    """Round the weights of `kernels` with error feedback, in place.

    Args:
        reference: The float model; it is not changed.
        kernels: Where.
        grid: The integers that weights may use.
        ctx: Lends the runner, the samples and the progress.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    skipped: list[Skip] = []
    todo: list[Kernel] = []
    for kernel in kernels:
        reason = _why_not(kernel)
        if reason is None:
            todo.append(kernel)
        else:
            skipped.append(Skip(graph.label(kernel.integer), f"its weight is rounded to nearest: {reason}"))
    done = 0
    for batch in _batches(todo):
        hessians = _hessians(reference, batch, ctx)
        done += sum(_round(kernel, hessians[_key(kernel)], grid) for kernel in batch)
    return Rounded(done, tuple(skipped))


def _why_not(kernel: Kernel) -> str | None:
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


def _inputs(kernel: Kernel) -> int:
    """How many inputs each output sums over."""
    shape = weight_shape(kernel.integer)
    return int(np.prod(shape)) // shape[0 if _is_stored_by_output(kernel.integer) else 1]


def _groups(kernel: Kernel) -> int:
    return graph.attribute_int(kernel.integer, "group", 1) if kernel.integer.op_type == "Conv" else 1


def _is_stored_by_output(node: ir.Node) -> bool:
    return node.op_type == "Conv" or bool(graph.attribute_int(node, "transB", 0))


Key = tuple[str, int, tuple[tuple[int, ...], ...]]
"""An activation, its groups of channels, and how it is cut into windows: kernels that agree on all share hessians."""


def _key(kernel: Kernel) -> Key:
    node = kernel.float
    if node is None or node.inputs[0] is None:
        raise ValueError("the kernel was not accepted")
    name = node.inputs[0].name or ""
    if node.op_type != "Conv":
        return name, 1, ()
    window = weight_shape(kernel.integer)[2:]
    steps = (graph.attribute_ints(node, each) or (1,) * len(window) for each in ("strides", "dilations"))
    return name, _groups(kernel), (window, *steps, graph.attribute_ints(node, "pads") or (0,) * (2 * len(window)))


def _batches(kernels: Sequence[Kernel]) -> Iterator[list[Kernel]]:
    """Kernels in order, as many at a time as have hessians of no more than `_MOST_BYTES`."""
    batch: list[Kernel] = []
    keys: dict[Key, int] = {}
    for kernel in kernels:
        size = 4 * _groups(kernel) * _inputs(kernel) ** 2
        if batch and _key(kernel) not in keys and sum(keys.values()) + size > _MOST_BYTES:
            yield batch
            batch, keys = [], {}
        batch.append(kernel)
        keys[_key(kernel)] = size
    if batch:
        yield batch


def _hessians(model: ir.Model, kernels: Sequence[Kernel], ctx: Context) -> Mapping[Key, list[Hessian]]:
    """For each key a hessian per group of channels."""
    found = {_key(kernel): [Hessian(_inputs(kernel)) for _ in range(_groups(kernel))] for kernel in kernels}
    names = sorted({name for name, *_ in found})
    total = max(1, min(SAMPLES, len(ctx.calibration or ())))
    for arrays in ctx.runner.run(model, kernel_pairs.feeds(ctx, SAMPLES, "rounding weights"), outputs=names):
        seen = dict(zip(names, arrays, strict=True))
        for (name, _, cut), hessians in found.items():
            if not np.abs(seen[name]).max(initial=0) < _BAD:
                continue
            most = int(np.clip(_ROWS_PER_INPUT * hessians[0].width // total, *_WINDOWS))
            rows = windows(seen[name], *cut, most=most) if cut else seen[name]
            for hessian, part in zip(hessians, np.split(rows, len(hessians), axis=-1), strict=True):
                hessian.observe(part)
    return found


def windows(
    images: np.ndarray,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    *,
    most: int | None = None,
) -> np.ndarray:
    """What a convolution multiplies its weight by: float, shape (positions, C · window).

    Args:
        images: Shape (N, C, …).
        window: Sizes of the kernel, one for each spatial axis.
        strides: Of Conv.
        dilations: Of Conv.
        pads: Of Conv: all beginnings, then all ends.
        most: Only so many of them, by lot.
    """
    axes = len(window)
    padded = np.pad(images, ((0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)))
    spans = tuple((size - 1) * step + 1 for size, step in zip(window, dilations, strict=True))
    if any(size < span for size, span in zip(padded.shape[2:], spans, strict=True)):
        return np.zeros((0, images.shape[1] * int(np.prod(window))), images.dtype)
    cut = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
    cut = cut[(slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))]
    at = np.moveaxis(cut, 1, 1 + axes)
    count = int(np.prod(at.shape[: 1 + axes]))
    taken = np.arange(count)
    if most is not None and count > most:  # at even distances they could all be at one edge of the images
        taken = np.random.default_rng(0).choice(count, most, replace=False)
    chosen = np.unravel_index(taken, at.shape[: 1 + axes])
    return np.asarray(at[chosen].reshape(len(chosen[0]), -1))


def _round(kernel: Kernel, hessians: Sequence[Hessian], grid: Grid) -> bool:
    """Store other integers for one kernel; says whether any differ."""
    node, reader = kernel.integer, dequantizer(kernel.integer.inputs[1])
    weight = None if kernel.float is None else graph.constant(kernel.float.inputs[1])
    parameters = [] if reader is None else [graph.constant(value) for value in reader.inputs]
    if reader is None or weight is None or len(parameters) != 3 or any(array is None for array in parameters):
        return False
    stored, scale, zero_point = (np.asarray(array) for array in parameters)
    by_output = _is_stored_by_output(node)
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
