"""A scale and a shift for a BatchNormalization whose inputs have changed: its outputs shall be what they were.

Matching means and deviations alone would be no goal: where an input is only partly what it was, the deviation that it
had makes the part that is wrong larger. So each channel's scale and shift are fitted like a layer's weights (see
`ridge`), and stay where that does not help on samples that had no part in the fit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.ridge import ResidualSums
from modelopt.pruning.row_choice import RowChoice

_ROWS = 512
"""Rows of a sample that are looked at, at most: each channel has two numbers to fit."""


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
        self._sums = ResidualSums(max(self._channels, 1), 1, 1)

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
        self._sums.observe(made[..., None], (wanted - made)[..., None], index)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the node its new scale and shift; says whether it got any."""
        scale, shift = (graph.constant(value) for value in self._node.inputs[1:3])
        if scale is None or shift is None:
            return False
        found = self._sums.correction(intercept=True)
        if found is None:
            return False
        factor, added = 1 + found.matrix[:, 0, 0], found.bias[:, 0]
        self._store(1, scale * factor, names)
        self._store(2, shift * factor + added, names)
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
