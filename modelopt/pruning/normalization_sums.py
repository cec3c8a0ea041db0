"""Statistics of a BatchNormalization whose inputs have changed, so that its outputs keep their means and deviations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph

_LEAST_ROWS = 16


class NormalizationSums:
    """What a BatchNormalization gives, before and after, channel by channel: sums over samples and positions.

    BN(x) = scale · (x - mean) / sqrt(var + epsilon) + bias. New `mean` and `var` are those with which the pruned
    model's inputs give outputs of the mean and the deviation that the original's have.
    """

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._count = 0
        self._wanted: np.ndarray | float = 0.0
        self._given: np.ndarray | float = 0.0

    @property
    def most_bytes(self) -> int:
        """It keeps sums only."""
        return 0

    def observe_wanted(self, wanted: np.ndarray, _index: int) -> None:
        """Add what the original gives for a sample, at the channels that stay."""
        self._wanted = self._wanted + _sums(wanted)

    def observe(self, data: np.ndarray, _made: np.ndarray, _index: int) -> None:
        """Add a sample's input in the pruned model."""
        self._count += data.size // max(data.shape[1], 1)
        self._given = self._given + _sums(data)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the node its new statistics; says whether it got any."""
        stored = [graph.constant(value) for value in self._node.inputs[1:5]]
        if self._count < _LEAST_ROWS or any(each is None for each in stored):
            return False
        scale, shift, _, old_variance = (np.asarray(each, np.float64) for each in stored)
        epsilon = graph.attribute_float(self._node, "epsilon", 1e-5)
        mean_in, deviation_in = _moments(self._given, self._count)
        mean_out, deviation_out = _moments(self._wanted, self._count)
        usable = (deviation_in > 0) & (deviation_out > 0) & (scale != 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(usable, np.abs(scale) * deviation_in / deviation_out, np.sqrt(old_variance + epsilon))
            variance = np.maximum(np.square(spread) - epsilon, 0)
            spread = np.sqrt(variance + epsilon)
            mean = mean_in - np.where(scale != 0, (mean_out - shift) / scale, 0) * spread
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            return False
        for index, new in ((3, mean), (4, variance)):
            self._store(index, new, names)
        return True

    def _store(self, index: int, new: np.ndarray, names: graph.NameSource) -> None:
        value = self._node.inputs[index]
        old = graph.constant(value)
        if value is None or old is None:
            raise ValueError("a statistic is not constant")
        array = new.astype(old.dtype)
        if len(value.uses()) == 1:
            graph.set_constant(value, array)
        else:
            new_value = graph.constant_beside(value, self._node, names(f"{value.name}_repaired"), array)
            self._node.replace_input_with(index, new_value)


def _sums(array: np.ndarray) -> np.ndarray:
    """By channel the sum and the sum of the squares: float64, shape (2, C)."""
    rows = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]).astype(np.float64)
    return np.stack([rows.sum(0), np.square(rows).sum(0)])


def _moments(sums: np.ndarray | float, count: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(sums) / count
    return first, np.sqrt(np.maximum(second - np.square(first), 0))
