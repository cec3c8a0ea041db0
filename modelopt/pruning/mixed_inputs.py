"""Layers that are repaired through their inputs: what is gone of them is put together from what is left.

A weight that meets the channels x of its input one by one, whatever the operator does besides, gives W · x. With the
original's x close to D · x' + d for the channels x' that are left, W · D does for x' what W does for x. That holds for
convolutions whose kernels are too large to be fitted tap by tap, for transposed ones, and for the weights of recurrent
operators and of fused attention. The error is counted as the weights pass it on: with W = U S Vᵀ (channels in rows)
fitted is (x - x') · U S, and the correction of W is what was found times Vᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.graph.operators import RECURRENT
from modelopt.pruning import layer_bias
from modelopt.pruning.layer_bias import LayerBias
from modelopt.pruning.repair_plan import RepairPlan
from modelopt.pruning.ridge import ResidualSums
from modelopt.pruning.row_choice import RowChoice
from modelopt.pruning.summing_layer import summing_layer
from modelopt.pruning.weight_axes import Consumer

_MOST_CHANNELS = 2304
_LEAST_SQUARE = 1e-12
"""Squares of singular values below this share of the largest are taken as zero."""


@dataclass(frozen=True)
class MixedInput:
    """A weight, and the channels that it meets.

    Attributes:
        consumer: The node of the pruned model, its input and its weight.
        states: Whether the input is the operator's own output, step by step: then each direction has its own channels.
        old: The original's weight, at the outputs that stay: shape (directions, channels, numbers of a channel).
        kept: Which channels are left: bool, shape (channels,).
    """

    consumer: Consumer
    states: bool
    old: np.ndarray
    kept: np.ndarray

    @property
    def name(self) -> str:
        """The name of the value whose channels these are."""
        return self.consumer.data.name or ""

    def rows(self, array: np.ndarray) -> np.ndarray:
        """The channels of an observed array: shape (rows, directions, channels)."""
        if self.states:  # (steps, directions, samples, units), or (samples, steps, directions, units)
            axis = 2 if graph.attribute_int(self.consumer.node, "layout", 0) else 1
            array = np.moveaxis(array, axis, -2)
            return array.reshape(-1, *array.shape[-2:])
        last = np.moveaxis(array, self.consumer.data_axis, -1)
        return last.reshape(-1, 1, last.shape[-1])


def mixed_input(original: ir.Model, plan: RepairPlan, consumer: Consumer) -> MixedInput | Mismatch:
    """How a layer can be repaired through its input, or why it cannot.

    Args:
        original: The model before channels were removed.
        plan: What is to be repaired.
        consumer: The layer, in the pruned model.
    """
    node, weight = consumer.node, consumer.weight
    before = _stored(original, weight.name)
    if before is None or graph.constant_tensor(weight) is None:
        return Mismatch("its weight is not stored")
    if len(weight.uses()) > 1:
        return Mismatch("its weight is shared")
    if graph.attribute_int(node, "group", 1) != 1:
        return Mismatch(f"{node.op_type} with groups of channels is not fitted")
    kept = plan.kept.get((weight, consumer.weight_axis), np.ones(before.shape[consumer.weight_axis], bool))
    for axis in range(before.ndim):
        mask = plan.kept.get((weight, axis))
        if mask is not None and axis != consumer.weight_axis:
            before = np.compress(mask, before, axis)
    if len(kept) > _MOST_CHANNELS:
        return Mismatch("it reads so many channels that a fit would take long")
    states = node.op_type in RECURRENT and consumer.data in node.outputs
    old = _as_matrix(before.astype(np.float64), consumer.weight_axis, states=states)
    return MixedInput(consumer, states, old, np.asarray(kept))


def _stored(model: ir.Model, name: str | None) -> np.ndarray | None:
    """What a model stores by a name."""
    found = model.graph.initializers.get(name or "")
    made = (value for node in model.graph if node.op_type == "Constant" for value in node.outputs)
    return graph.constant(found or next((value for value in made if value.name == name), None))


def _as_matrix(array: np.ndarray, axis: int, *, states: bool) -> np.ndarray:
    """A weight as (directions, channels, numbers of a channel)."""
    if states:
        return np.swapaxes(array, 1, 2)
    return np.moveaxis(array, axis, 0).reshape(1, array.shape[axis], -1)


class MixingSums:
    """The sums of one layer that is repaired through its input, and what they lead to.

    Args:
        mixed: The layer.
        seed: Decides which rows are looked at.
        samples: How many samples come.
    """

    def __init__(self, mixed: MixedInput, seed: int, samples: int) -> None:
        self._mixed = mixed
        directions, channels, _ = mixed.old.shape
        squares, left = np.linalg.eigh(mixed.old @ np.swapaxes(mixed.old, 1, 2))  # sooner done than W = U S Vᵀ itself
        squares, left = squares[:, ::-1], left[..., ::-1]
        rank = max(int(np.count_nonzero(squares.max(0) > _LEAST_SQUARE * squares.max())), 1)
        values = np.sqrt(np.maximum(squares[:, :rank], _LEAST_SQUARE * squares.max() or 1.0))
        self._left = left[..., :rank] * values[:, None]
        self._right = np.swapaxes(left[..., :rank], 1, 2) @ mixed.old / values[:, :, None]
        self._sums = ResidualSums(directions, int(mixed.kept.sum()), rank)
        self._choice = RowChoice.for_inputs(channels, samples, seed)
        self._samples = samples

    @property
    def value(self) -> ir.Value:
        """What the original says of it: of all channels."""
        return self._mixed.consumer.data

    @property
    def whole_axis(self) -> int:
        """The axis of `value` of which all channels are wanted."""
        return self._mixed.consumer.data_axis

    @property
    def most_bytes(self) -> int:
        """What `rows_wanted` gives for all samples, at most."""
        return 4 * self._samples * self._choice.most * self._sums.groups * len(self._mixed.kept)

    @property
    def read(self) -> tuple[str, ...]:
        """The names of what the pruned model says of it.

        States change with the weights that are fitted, so those of the original stand for them.
        """
        return () if self._mixed.states else (self._mixed.name,)

    def rows_wanted(self, whole: np.ndarray, index: int) -> np.ndarray:
        """What to remember of the original's value: float32, shape (rows, directions, channels)."""
        rows = self._mixed.rows(whole)
        return np.asarray(rows[self._choice.of(len(rows), index)], np.float32)

    def observe(self, wanted: np.ndarray, arrays: dict[str, np.ndarray], index: int) -> None:
        """Add a sample: what `rows_wanted` gave, and the values of the pruned model."""
        if self._mixed.states:
            inputs = wanted[..., self._mixed.kept]
        else:
            rows = self._mixed.rows(arrays[self._mixed.name])
            inputs = rows[self._choice.of(len(rows), index)]
        missing = wanted.copy()
        missing[..., self._mixed.kept] -= inputs
        self._sums.observe(inputs, np.einsum("ndc,dcr->ndr", missing, self._left), index)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the layer its new weights; says whether they differ."""
        bias = self._bias()
        found = self._sums.correction(intercept=bias is not None)
        if found is None:
            return False
        consumer = self._mixed.consumer
        array = graph.constant(consumer.weight)
        if array is None:
            raise ValueError(f"'{consumer.weight.name}' is not constant")
        shift = found.matrix @ self._right
        if self._mixed.states:
            change = np.swapaxes(shift, 1, 2)
        else:
            moved = np.moveaxis(array, consumer.weight_axis, 0)
            change = np.moveaxis(shift.reshape(moved.shape), 0, consumer.weight_axis)
        graph.set_constant(consumer.weight, np.asarray(array.astype(np.float64) + change, array.dtype))
        if bias is not None:
            bias.add(self._bias_shift((found.bias[:, None] @ self._right)[:, 0], array.shape), names)
        return True

    def _bias(self) -> LayerBias | None:
        """Where what is always missing can be added; at the edges of padded images not all of it is missing."""
        node = self._mixed.consumer.node
        layer = summing_layer(node)
        if not isinstance(layer, Mismatch):
            padded = any(graph.attribute_ints(node, "pads") or ()) or "auto_pad" in node.attributes
            return None if padded else layer_bias.of(layer)
        index = 3 if node.op_type in RECURRENT else 2 if node.op_type == "Attention" else None
        value = None if index is None else graph.input_at(node, index)
        if index is None or value is None or graph.constant_tensor(value) is None:
            return None
        return LayerBias(node, index, 1.0, value)

    def _bias_shift(self, shift: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A shift of (directions, numbers of a channel) as the bias is stored."""
        consumer = self._mixed.consumer
        node = consumer.node
        if node.op_type in RECURRENT:  # (directions, of W and of R)
            rows = shift.reshape(shape[0], shape[1])
            parts = (np.zeros_like(rows), rows) if self._mixed.states else (rows, np.zeros_like(rows))
            return np.concatenate(parts, 1)
        if node.op_type == "Conv":
            return np.asarray(shift.reshape(shape[0], -1).sum(1))
        return shift.reshape(-1)
