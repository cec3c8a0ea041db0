"""A shift for a BatchNormalization whose inputs have changed: its outputs shall have the means that they had.

Its scale stays. The deviations that the outputs had would make larger what is wrong in the inputs; the scale with the
least error makes smaller what is right, and that adds up from layer to layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.ridge import FOLDS
from modelopt.pruning.row_choice import RowChoice

_ROWS = 512
"""Rows of a sample that are looked at, at most: each channel has one number to fit."""


class NormalizationSums:
    """What a BatchNormalization gives, before and after, channel by channel.

    Args:
        node: The node, in the pruned model.
        seed: Decides which rows are looked at.
        samples: How many samples come.
    """

    def __init__(self, node: ir.Node, seed: int, samples: int) -> None:
        self._node = node
        channels = graph.constant(node.inputs[1])
        self._channels = 0 if channels is None else channels.size
        self._choice = RowChoice(_ROWS, seed)
        self._samples = samples
        self._missing = np.zeros((FOLDS, self._channels))
        self._counts = np.zeros((FOLDS, 1))

    @property
    def value(self) -> ir.Value:
        """What the original says of it."""
        return self._node.outputs[0]

    @property
    def read(self) -> tuple[str, ...]:
        """The names of what the pruned model says of it."""
        return (self._node.outputs[0].name or "",)

    @property
    def most_bytes(self) -> int:
        """What `rows_wanted` gives for all samples, at most."""
        return 4 * self._samples * _ROWS * self._channels

    def rows_wanted(self, whole: np.ndarray, index: int) -> np.ndarray:
        """What to remember of the original's output: float32, shape (rows, channels)."""
        rows = np.moveaxis(whole, 1, -1).reshape(-1, whole.shape[1])
        return np.asarray(rows[self._choice.of(len(rows), index)], np.float32)

    def observe(self, wanted: np.ndarray, arrays: dict[str, np.ndarray], index: int) -> None:
        """Add a sample: what `rows_wanted` gave, and the values of the pruned model."""
        made = self.rows_wanted(arrays[self.read[0]], index)
        missing = (wanted - made).astype(np.float64)
        missing = missing[np.isfinite(missing).all(1)]
        self._missing[index % FOLDS] += missing.sum(0)
        self._counts[index % FOLDS] += len(missing)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the node its new shift, in channels where it helps on samples that had no part; says whether it did."""
        shift = graph.constant(self._node.inputs[2])
        if shift is None or np.count_nonzero(self._counts) < 2:
            return False
        total, count = self._missing.sum(0), self._counts.sum()
        others = (total - self._missing) / np.maximum(count - self._counts, 1)
        gain = np.sum(others * (2 * self._missing - self._counts * others), 0)
        added = np.where(gain > 0, total / count, 0)
        if not added.any():
            return False
        self._store(2, shift + added, names)
        return True

    def _store(self, index: int, new: np.ndarray, names: graph.NameSource) -> None:
        value = self._node.inputs[index]
        old = graph.constant(value)
        if value is None or old is None:
            raise ValueError("a number of the normalization is not constant")
        array = new.astype(old.dtype)
        if len(value.uses()) == 1:
            graph.set_constant(value, array)
        else:
            new_value = graph.constant_beside(value, self._node, names(f"{value.name}_repaired"), array)
            self._node.replace_input_with(index, new_value)
