"""The rows that a convolution multiplies by its kernel (im2col), for some of its output positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph


@dataclass(frozen=True)
class Window:
    """The attributes of a convolution that say where its kernel reads, axis by axis.

    Attributes:
        kernel: Positions of the kernel.
        strides: Steps between outputs.
        dilations: Steps between positions of the kernel.
        pads: As in ONNX: the padding before each axis, then the padding behind each axis.
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


Choice = Callable[[int], np.ndarray]
"""Chooses output positions: from how many there are, the indices of those to look at."""


def evenly(limit: int) -> Choice:
    """Up to `limit` output positions at even distances."""
    return lambda total: np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))


def at_random(limit: int) -> Choice:
    """Up to `limit` output positions, by a fixed seed: at even distances all could be at one edge of the images."""
    return lambda total: (
        np.random.default_rng(0).choice(total, limit, replace=False) if total > limit else np.arange(total)
    )


def rows(image: np.ndarray, window: Window, choose: Choice = np.arange, padding: int = 0) -> np.ndarray:
    """What a convolution multiplies its weight by at some of its output positions.

    Args:
        image: Shape (batch, channels, sizes…).
        window: What the kernel reads.
        choose: Which output positions.
        padding: The number outside of the image: 0, or the zero point of integers.

    Returns:
        Shape (output positions, channels, kernel positions), in the image's dtype.
    """
    sizes = image.shape[2:]
    begins, counts = zip(*(_axis(window, axis, size) for axis, size in enumerate(sizes)), strict=True)
    outputs = (image.shape[0], *counts)
    total = math.prod(outputs)
    batch, *places = np.unravel_index(choose(total) if total else np.zeros(0, np.int64), outputs)
    starts = [place * stride - begin for place, stride, begin in zip(places, window.strides, begins, strict=True)]
    channels_last = np.moveaxis(image, 1, -1)
    taps = []
    for offsets in itertools.product(*map(range, window.kernel)):
        pixels = [start + at * step for start, at, step in zip(starts, offsets, window.dilations, strict=True)]
        inside = np.logical_and.reduce([(p >= 0) & (p < size) for p, size in zip(pixels, sizes, strict=True)])
        clipped = (np.clip(p, 0, size - 1) for p, size in zip(pixels, sizes, strict=True))
        taps.append(np.where(inside[:, None], channels_last[(batch, *clipped)], np.array(padding, image.dtype)))
    return np.stack(taps, axis=-1)


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
