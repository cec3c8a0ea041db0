"""The rows that a convolution multiplies by its kernel (im2col), for a bounded sample of its output positions."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph


@dataclass(frozen=True)
class Window:
    """Where a convolution's kernel reads, axis by axis.

    Attributes:
        kernel: Positions of the kernel.
        strides: Steps between outputs.
        dilations: Steps between positions of the kernel.
        pads: What is added before and behind each axis, as ONNX writes it: all befores, then all behinds.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"


def window_of(node: ir.Node, kernel: tuple[int, ...]) -> Window:
    """The window of a Conv; `kernel` is its weight's shape without the first two axes."""
    axes = len(kernel)
    return Window(
        kernel,
        graph.attribute_ints(node, "strides") or (1,) * axes,
        graph.attribute_ints(node, "dilations") or (1,) * axes,
        graph.attribute_ints(node, "pads") or (0,) * 2 * axes,
        graph.attribute_string(node, "auto_pad", "NOTSET"),
    )


def sample_rows(image: np.ndarray, window: Window, groups: int, limit: int, padding: int) -> np.ndarray:
    """Up to `limit` rows, evenly spread over the outputs.

    Args:
        image: (batch, channels, sizes…).
        window: What the kernel reads.
        groups: How many groups the channels fall into.
        limit: How many outputs to look at.
        padding: What stands outside the image: the zero point.

    Returns:
        (groups, rows, positions · channels per group) in the image's dtype, positions first.
    """
    sizes = image.shape[2:]
    begins, counts = zip(*(_axis(window, axis, size) for axis, size in enumerate(sizes)), strict=True)
    total = image.shape[0] * math.prod(counts)
    chosen = np.unravel_index(
        np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64)) if total else np.zeros(0, np.int64),
        (image.shape[0], *counts),
    )
    starts = [place * stride - begin for place, stride, begin in zip(chosen[1:], window.strides, begins, strict=True)]
    columns = []
    for offsets in itertools.product(*(range(size) for size in window.kernel)):
        places = [start + at * step for start, at, step in zip(starts, offsets, window.dilations, strict=True)]
        inside = np.logical_and.reduce([(p >= 0) & (p < size) for p, size in zip(places, sizes, strict=True)])
        clipped = tuple(np.clip(p, 0, size - 1) for p, size in zip(places, sizes, strict=True))
        pixels = np.moveaxis(image, 1, -1)[(chosen[0], *clipped)]
        columns.append(np.where(inside[:, None], pixels, np.array(padding, image.dtype)))
    rows = np.stack(columns, axis=1)  # (rows, positions, channels)
    parts = np.split(rows, groups, axis=2)
    return np.stack([part.reshape(len(part), -1) for part in parts])


def _axis(window: Window, axis: int, size: int) -> tuple[int, int]:
    """(padding before, number of outputs) of one axis, by the formulas of ONNX's Conv."""
    stride, reach = window.strides[axis], (window.kernel[axis] - 1) * window.dilations[axis] + 1
    if window.auto_pad.startswith("SAME"):
        outputs = -(-size // stride)
        padding = max((outputs - 1) * stride + reach - size, 0)
        return (padding // 2 if window.auto_pad == "SAME_UPPER" else padding - padding // 2), outputs
    axes = len(window.kernel)
    before, behind = (0, 0) if window.auto_pad == "VALID" else (window.pads[axis], window.pads[axis + axes])
    return before, max((size + before + behind - reach) // stride + 1, 0)
