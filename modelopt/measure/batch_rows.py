"""Moves the axis of an output that holds the samples of a batch to the front, so that each row is a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelopt.measure.heads import Head


def batch_axis(head: Head, output: np.ndarray, rows: int | None) -> int:
    """The axis of an output that holds the samples of a batch.

    Args:
        head: How the graph ends there; it gives the axis where the model names it.
        output: What a sample gives.
        rows: How many samples the batch holds; None where that is not known.

    Returns:
        The axis that the model names, else the only axis of the batch's size, else the first.
    """
    if head.batch_axis is not None:
        return head.batch_axis if head.batch_axis < output.ndim else 0
    if rows is None or rows < 2 or output.ndim < 2 or output.shape[0] == rows:
        return 0
    equal = [axis for axis, size in enumerate(output.shape) if size == rows]
    return equal[0] if len(equal) == 1 else 0


def rows_first(outputs: Sequence[np.ndarray], axes: Sequence[int]) -> list[np.ndarray]:
    """The outputs with these axes first."""
    return [
        np.moveaxis(output, axis, 0) if 0 < axis < output.ndim else output
        for output, axis in zip(outputs, axes, strict=True)
    ]
