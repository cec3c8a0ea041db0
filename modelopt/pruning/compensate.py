"""Repair of a pruned model without training: layers are fitted in closed form to what the original computed.

From input to output each layer that computes from wrong inputs, because its input lost channels or because an earlier
layer's did, gets the weights and the bias that make it closest to the original's output on calibration samples (see
`ridge`). What a later layer sees is repaired already. Weights move no more than the data want: the fit starts from
those that stay, and its damping is chosen on samples that it was not fitted to. So what removed channels did is taken
over by those that can stand in for them (He et al. 2017, arXiv:1707.06168, section 3.2; Frantar and Alistarh 2022,
arXiv:2208.11580). A BatchNormalization with wrong inputs gets a shift for each channel (see
`normalization_sums`), and other weights are fitted through what they read (see `mixed_inputs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core import temporary
from modelopt.graph.match import Mismatch
from modelopt.pruning import layer_bias
from modelopt.pruning.dependencies import Dependencies
from modelopt.pruning.kept_arrays import KeptArrays
from modelopt.pruning.mixed_inputs import MixingSums, mixed_input
from modelopt.pruning.normalization_sums import NormalizationSums
from modelopt.pruning.original_and_pruned import run_to, sample_count
from modelopt.pruning.repair_plan import RepairPlan, layer_of
from modelopt.pruning.ridge import ResidualSums
from modelopt.pruning.row_choice import RowChoice
from modelopt.pruning.stepwise_run import StepwiseRun
from modelopt.pruning.summing_layer import SummingLayer

_MOST_INPUTS = 1152
"""Inputs that an output may sum over, for a fit of each: its time grows with the third power. Others are mixed."""

_MOST_BYTES = 256 << 20
"""Of rows of the original that are kept in files at a time; what does not fit takes another run of it."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        layers: How many layers got new weights or a new bias.
        refused: (layer, why) of those that kept theirs.
    """

    layers: int
    refused: tuple[tuple[str, str], ...]


def repair(
    original: ir.Model,
    pruned: ir.Model,
    found: Dependencies,
    removed: frozenset[int],
    ctx: Context,
    depth: int | None = None,
) -> Repaired:
    """Fit the layers of a pruned model to the original.

    Args:
        original: The model before channels were removed, with the same names; it is not changed.
        pruned: The model that `found` was made of, without the channels; it is changed.
        found: The dependencies.
        removed: The atoms (roots) that were removed.
        ctx: Lends the runner, the samples, the seed and the progress.
        depth: How many layers one behind another are fitted, from what was removed on; None for all.

    Raises:
        InputError: There are no calibration data.
        Refused: onnxruntime does not run a model.
    """
    return fit(original, pruned, RepairPlan.of(pruned, found, removed), ctx, depth)


def fit(original: ir.Model, pruned: ir.Model, plan: RepairPlan, ctx: Context, depth: int | None = None) -> Repaired:
    """Fit the layers of a plan to what the original computed; as `repair`, whatever was removed."""
    refused: list[tuple[str, str]] = []
    nodes = plan.stages[:depth]
    stages = [[each for node in stage for each in _sums(node, original, plan, refused, ctx)] for stage in nodes]
    names = graph.NameSource(pruned)
    done = finished = 0
    with temporary.folder() as first, temporary.folder() as second:
        rows, run = KeptArrays(first), StepwiseRun(pruned, nodes, ctx, KeptArrays(second))
        for batch in _batches(stages):
            _observe_original(original, plan, batch, finished, rows, ctx)
            for sums in batch:
                reads = list(dict.fromkeys(name for each in sums for name in each.read))
                for index, arrays in enumerate(run.run(finished, reads)):
                    for number, each in enumerate(sums):
                        each.observe(rows.get(_key(finished, number), index), arrays, index)
                for number, each in enumerate(sums):
                    rows.drop(_key(finished, number))
                    done += each.apply(names)
                sums.clear()  # their sums take memory
                finished += 1
                ctx.progress("repairing layers", finished, len(stages))
    return Repaired(done, tuple(refused))


class _Sums(Protocol):
    """What is added up of a layer over the samples, and what it leads to."""

    @property
    def value(self) -> ir.Value:
        """What the original says of the layer."""
        ...

    @property
    def read(self) -> tuple[str, ...]:
        """The names of what the pruned model says of it."""
        ...

    @property
    def most_bytes(self) -> int:
        """What `rows_wanted` gives for all samples, at most."""
        ...

    def rows_wanted(self, whole: np.ndarray, index: int) -> np.ndarray:
        """What to remember of `value` in the original, for a sample."""
        ...

    def observe(self, wanted: np.ndarray, arrays: dict[str, np.ndarray], index: int) -> None:
        """Add a sample: what `rows_wanted` gave, and the values of the pruned model."""
        ...

    def apply(self, names: graph.NameSource) -> bool:
        """Change the layer; says whether it did."""
        ...


def _sums(
    node: ir.Node, original: ir.Model, plan: RepairPlan, refused: list[tuple[str, str]], ctx: Context
) -> Iterator[_Sums]:
    """The sums for a node of a stage; what cannot be fitted goes to `refused`."""
    samples, layer = sample_count(ctx), layer_of(node)
    if layer is not None and layer.matrix().shape[1] <= _MOST_INPUTS:
        yield _LayerSums(layer, plan.target(node), ctx.seed, samples)
        return
    if layer is None and graph.is_standard(node, "BatchNormalization"):
        yield NormalizationSums(node, ctx.seed, samples)
        return
    consumers = plan.consumers.get(node, ())
    if not consumers:
        refused.append((graph.name_of(node), "each output sums over so many inputs that a fit would take long"))
    for consumer in consumers:
        mixed = mixed_input(original, plan, consumer)
        if isinstance(mixed, Mismatch):
            refused.append((graph.name_of(node), mixed.reason))
        elif not (mixed.states and mixed.kept.all()):
            yield MixingSums(mixed, ctx.seed, samples)


def _batches(stages: Sequence[list[_Sums]]) -> Iterator[list[list[_Sums]]]:
    """Stages in order, as many at a time as keep no more than `_MOST_BYTES` of the original's rows."""
    batch: list[list[_Sums]] = []
    free = _MOST_BYTES
    for sums in stages:
        size = sum(each.most_bytes for each in sums)
        if batch and size > free:
            yield batch
            batch, free = [], _MOST_BYTES
        batch.append(sums)
        free -= size
    if batch:
        yield batch


def _observe_original(
    original: ir.Model, plan: RepairPlan, batch: Sequence[list[_Sums]], first: int, rows: KeptArrays, ctx: Context
) -> None:
    """One run of the original for some stages: what their layers should read or give, at the rows that are chosen."""
    together = {_key(first + at, number): each for at, sums in enumerate(batch) for number, each in enumerate(sums)}
    names = [each.value.name or "" for each in together.values()]
    for index, arrays in enumerate(run_to(original, names, ctx) if together else ()):
        for key, each in together.items():
            whole = each.whole_axis if isinstance(each, MixingSums) else None
            array = plan.kept_part(each.value, arrays[each.value.name or ""], whole)
            rows.put(key, index, each.rows_wanted(array, index))


def _key(stage: int, number: int) -> str:
    return f"{stage}/{number}"


class _LayerSums:
    """The sums of one layer whose outputs are fitted, and what they lead to.

    Args:
        layer: The layer, in the pruned model.
        target: What is fitted: its output, or a sum that its output is added to.
        seed: Decides which rows are looked at.
        samples: How many samples come.
    """

    def __init__(self, layer: SummingLayer, target: ir.Value, seed: int, samples: int) -> None:
        self._layer = layer
        self._target = target
        self._samples = samples
        groups, width, made = layer.matrix().shape
        self._sums = ResidualSums(groups, width, made)
        self._choice = RowChoice.for_inputs(width, samples, seed)

    @property
    def value(self) -> ir.Value:
        """What it should give."""
        return self._target

    @property
    def read(self) -> tuple[str, ...]:
        """Its input, and what is fitted."""
        return self._layer.data.name or "", self.value.name or ""

    @property
    def most_bytes(self) -> int:
        """Of its outputs."""
        return 4 * self._samples * self._choice.most * self._sums.groups * self._sums.made

    def rows_wanted(self, whole: np.ndarray, index: int) -> np.ndarray:
        """What the layer should give for a sample: float32, shape (rows, groups, N)."""
        return np.asarray(self._layer.outputs(whole, lambda total: self._choice.of(total, index)), np.float32)

    def observe(self, wanted: np.ndarray, arrays: dict[str, np.ndarray], index: int) -> None:
        """Add a sample: the input of the pruned layer, and what is fitted; samples come in the same order."""
        data, made = (arrays[name] for name in self.read)
        inputs = self._layer.inputs(data, lambda total: self._choice.of(total, index))
        missing = wanted - self._layer.outputs(made, lambda total: self._choice.of(total, index))
        self._sums.observe(inputs, missing, index)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the layer its new weights; says whether they differ."""
        bias = layer_bias.of(self._layer)
        found = self._sums.correction(intercept=bias is not None)
        if found is None:
            return False
        graph.set_constant(self._layer.weight, self._layer.stored(self._layer.matrix() + found.matrix))
        if bias is not None:
            bias.add(found.bias.reshape(-1), names)
        return True
