"""Importance of channels from what their consumers read on calibration samples; see `importance`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import InputError
from modelopt.graph.match import Mismatch
from modelopt.pruning.block_elimination import EliminatedLayer, elimination_costs
from modelopt.pruning.channel_groups import ChannelGroup
from modelopt.pruning.importance import NAMES, NEED_DATA, FilterNorm, Importance, Measured, RandomOrder
from modelopt.pruning.original_and_pruned import run_to, sample_count
from modelopt.pruning.summing_layer import SummingLayer, summing_layer
from modelopt.pruning.weight_axes import Consumer

_MOST_INPUTS = 2304
_MOST_BYTES = 256 << 20
_ROWS = (64, 1024)
"""Rows of a consumer's input for each sample, at least and at most."""

_ROWS_PER_INPUT = 4
"""Over all samples so many rows for each input are taken as enough to rank channels: a guess."""

_KNOWN: ContextVar[dict[tuple[str, str], np.ndarray] | None] = ContextVar("known scores", default=None)


@contextlib.contextmanager
def remembering(known: dict[tuple[str, str], np.ndarray]) -> Iterator[None]:
    """Measure each group once, and look its scores up in `known` from then on.

    Args:
        known: By measure and group, the scores; for one model and the same samples.
    """
    token = _KNOWN.set(known)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def importance_of(name: str, model: ir.Model, groups: Sequence[ChannelGroup], ctx: Context) -> Importance:
    """The measure of that name, for these groups of a model.

    Raises:
        InputError: There is no such measure, or it needs calibration data and there are none.
        Refused: onnxruntime does not run the model.
    """
    if name not in NAMES:
        raise InputError(f"importance '{name}' is not known", hint=f"one of {', '.join(NAMES)}")
    if name in NEED_DATA and (ctx.calibration is None or not len(ctx.calibration)):
        raise InputError(f"importance {name} needs calibration data", hint="--calib data/, or --importance l2")
    if name == "random":
        return RandomOrder(ctx.seed)
    if name in {"l1", "l2"}:
        return FilterNorm(int(name[1]))
    known = _KNOWN.get()
    known = {} if known is None else known
    missing = [group for group in groups if (name, group.name) not in known]
    known |= {(name, group): scores for group, scores in _measured(name, model, missing, ctx)}
    return Measured({group.name: known[name, group.name] for group in groups})


def _measured(
    name: str, model: ir.Model, groups: Sequence[ChannelGroup], ctx: Context
) -> Iterator[tuple[str, np.ndarray]]:
    for batch in _batches([_Reading.of(group) for group in groups]):
        _observe(name, model, batch, ctx)
        for reading in batch:
            yield reading.group.name, reading.scores(name)


@dataclass
class _Input:
    """What one consumer reads: sums of products, or only of squares, over the rows; and by sample the mean squares."""

    consumer: Consumer
    layer: SummingLayer | None
    rows: int = 0
    products: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    by_sample: list[np.ndarray] = field(default_factory=list)

    @property
    def width(self) -> int:
        return 0 if self.layer is None else int(self.layer.matrix().shape[1])

    def observe(self, data: np.ndarray, index: int, samples: int, *, all_products: bool) -> None:
        """Add a sample, of so many."""
        axis = np.moveaxis(data, self.consumer.data_axis, -1)
        flat = np.nan_to_num(axis.reshape(-1, axis.shape[-1]).astype(np.float64), posinf=0, neginf=0)
        mean = np.square(flat).mean(0) if len(flat) else np.zeros(flat.shape[1])
        self.by_sample.append(mean)
        self.squares = self.squares + np.square(flat).sum(0)
        self.rows += len(flat)
        if all_products and self.layer is not None and self.width <= _MOST_INPUTS:
            rng = np.random.default_rng(index)
            most = int(np.clip(_ROWS_PER_INPUT * self.width // samples, *_ROWS))
            rows = self.layer.inputs(data, lambda total: rng.choice(total, min(total, most), replace=False))
            rows = np.nan_to_num(rows[:, 0].astype(np.float32), posinf=0, neginf=0)
            self.products = self.products + (rows.T @ rows).astype(np.float64)


@dataclass
class _Reading:
    """A group and what its consumers read."""

    group: ChannelGroup
    inputs: list[_Input]

    @classmethod
    def of(cls, group: ChannelGroup) -> _Reading:
        inputs = []
        for consumer in group.consumers:
            layer = summing_layer(consumer.node)
            fits = not isinstance(layer, Mismatch) and layer.groups == 1
            inputs.append(_Input(consumer, layer if fits and not isinstance(layer, Mismatch) else None))
        return cls(group, inputs)

    @property
    def size_bytes(self) -> int:
        return sum(8 * min(each.width, _MOST_INPUTS) ** 2 for each in self.inputs)

    def scores(self, name: str) -> np.ndarray:
        """See `Importance.scores`."""
        if name == "second-order":
            return self._second_order()
        total = np.zeros(self.group.width)
        for each in self.inputs:
            if name == "wanda":
                total += self._magnitudes(each, np.asarray(each.squares) / max(each.rows, 1))
            else:
                ranks = [np.argsort(np.argsort(self._magnitudes(each, one), kind="stable")) for one in each.by_sample]
                total += np.mean(ranks, 0)
        return np.nan_to_num(total)

    def _positions(self, each: _Input) -> tuple[np.ndarray, ...]:
        return self.group.by_place[each.consumer.weight, each.consumer.weight_axis].positions

    def _magnitudes(self, each: _Input, mean_squares: np.ndarray) -> np.ndarray:
        """Σ |w| · ‖x‖ over the weights of each channel, as a share of all."""
        array = graph.constant(each.consumer.weight)
        if array is None:
            return np.zeros(self.group.width)
        rows = np.moveaxis(np.abs(array.astype(np.float64)), each.consumer.weight_axis, 0)
        sums = rows.reshape(rows.shape[0], -1).sum(1) * np.sqrt(mean_squares)
        scores = np.array([sums[positions].sum() for positions in self._positions(each)])
        return np.asarray(scores / (scores.sum() or 1.0))

    def _second_order(self) -> np.ndarray:
        """The error of the consumers after each removal, the cheapest first; of large ones |w| · ‖x‖ must do."""
        layers = [
            EliminatedLayer(
                each.layer.matrix()[0],
                np.asarray(each.products),
                [each.layer.block(positions) for positions in self._positions(each)],
            )
            for each in self.inputs
            if each.layer is not None and each.width <= _MOST_INPUTS
        ]
        if len(layers) < len(self.inputs) or not self.inputs:
            return self.scores("wanda")
        return elimination_costs(layers)


def _batches(readings: Sequence[_Reading]) -> Iterator[list[_Reading]]:
    """Readings in order, as many at a time as have sums of no more than `_MOST_BYTES`."""
    batch: list[_Reading] = []
    for reading in readings:
        if batch and sum(each.size_bytes for each in batch) + reading.size_bytes > _MOST_BYTES:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def _observe(name: str, model: ir.Model, batch: Sequence[_Reading], ctx: Context) -> None:
    inputs = [each for reading in batch for each in reading.inputs]
    names = [each.consumer.data.name or "" for each in inputs]
    total = sample_count(ctx)
    for index, arrays in enumerate(run_to(model, names, ctx)):
        for each, of_value in zip(inputs, names, strict=True):
            each.observe(arrays[of_value], index, total, all_products=name == "second-order")
        ctx.progress("measuring channels", index + 1, total)
