"""Repair of a pruned model without training: layers are fitted in closed form to what the original computed.

From input to output each layer that computes from wrong inputs, because its input lost channels or because an earlier
layer's did, gets the weights and the bias that make it closest to the original's output on calibration samples (see
`ridge`). What a later layer sees is repaired already. Weights move no more than the data want: the fit starts from
those that stay, and its damping is chosen on samples that it was not fitted to. So what removed channels did is taken
over by those that can stand in for them (He et al. 2017, arXiv:1707.06168, section 3.2; Frantar and Alistarh 2022,
arXiv:2208.11580). A BatchNormalization with wrong inputs gets statistics that give each channel the mean and the
deviation that it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.pruning import layer_bias
from modelopt.pruning.dependencies import Dependencies
from modelopt.pruning.normalization_sums import NormalizationSums
from modelopt.pruning.original_and_pruned import run_to, sample_count
from modelopt.pruning.repair_plan import RepairPlan, layer_of
from modelopt.pruning.ridge import ResidualSums
from modelopt.pruning.summing_layer import SummingLayer

_MOST_INPUTS = 2304
"""Inputs that an output may sum over: the sums hold the square of that."""

_ROWS_PER_INPUT = 64
_LEAST_ROWS = 256
_MOST_ROWS = 4096
"""Rows of a layer for each sample: over all samples about `_ROWS_PER_INPUT` for each input, within these limits."""


_MOST_BYTES = 256 << 20
"""Of outputs of the original that are kept at a time; what does not fit takes another run of it."""


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
    original: ir.Model, pruned: ir.Model, found: Dependencies, removed: frozenset[int], ctx: Context
) -> Repaired:
    """Fit the layers of a pruned model to the original.

    Args:
        original: The model before channels were removed, with the same names; it is not changed.
        pruned: The model that `found` was made of, without the channels; it is changed.
        found: The dependencies.
        removed: The atoms (roots) that were removed.
        ctx: Lends the runner, the samples, the seed and the progress.

    Raises:
        InputError: There are no calibration data.
        Refused: onnxruntime does not run a model.
    """
    return fit(original, pruned, RepairPlan.of(pruned, found, removed), ctx)


def fit(original: ir.Model, pruned: ir.Model, plan: RepairPlan, ctx: Context) -> Repaired:
    """Fit the layers of a plan to what the original computed; as `repair`, whatever was removed."""
    total = sample_count(ctx)
    refused = list(plan.refused)
    stages: list[_Sums] = []
    for stage in plan.stages:
        sums: _Sums = {}
        for node in stage:
            layer = layer_of(node)
            if layer is None:
                sums[node] = NormalizationSums(node)
            elif layer.matrix().shape[1] > _MOST_INPUTS:
                refused.append((graph.name_of(node), "each output sums over so many inputs that a fit would take long"))
            else:
                sums[node] = _LayerSums(layer, ctx.seed, total)
        stages.append(sums)
    names = graph.NameSource(pruned)
    done = finished = 0
    for batch in _batches(stages):
        _observe_original(original, plan, batch, ctx)
        for sums in batch:
            _observe_pruned(pruned, plan, sums, ctx)
            done += sum(each.apply(names) for each in sums.values())
            finished += 1
            ctx.progress("repairing layers", finished, len(stages))
    return Repaired(done, tuple(refused))


def _batches(stages: Sequence[_Sums]) -> Iterator[list[_Sums]]:
    """Stages in order, as many at a time as keep no more than `_MOST_BYTES` of the original's outputs."""
    batch: list[_Sums] = []
    free = _MOST_BYTES
    for sums in stages:
        size = sum(each.most_bytes for each in sums.values())
        if batch and size > free:
            yield batch
            batch, free = [], _MOST_BYTES
        batch.append(sums)
        free -= size
    if batch:
        yield batch


def _observe_original(original: ir.Model, plan: RepairPlan, batch: Sequence[_Sums], ctx: Context) -> None:
    """One run of the original for some stages: what their layers should give, at the rows that are looked at."""
    together = {node: each for sums in batch for node, each in sums.items()}
    names = [_name(plan.target(node)) for node in together]
    for index, arrays in enumerate(run_to(original, names, ctx) if together else ()):
        for (node, each), name in zip(together.items(), names, strict=True):
            each.observe_wanted(plan.kept_part(plan.target(node), arrays[name]), index)


def _observe_pruned(pruned: ir.Model, plan: RepairPlan, sums: _Sums, ctx: Context) -> None:
    """One run of the pruned model, as far as a stage: what its layers read and give now."""
    if not sums:
        return
    made = {node: _name(plan.target(node)) for node in sums}
    read = {node: _name(node.inputs[1 if _data_is_second(node) else 0]) for node in sums}
    for index, arrays in enumerate(run_to(pruned, [*made.values(), *read.values()], ctx)):
        for node, each in sums.items():
            each.observe(arrays[read[node]], arrays[made[node]], index)


def _data_is_second(node: ir.Node) -> bool:
    layer = layer_of(node)
    return layer is not None and layer.data is not node.inputs[0]


def _name(value: ir.Value | None) -> str:
    if value is None or value.name is None:
        raise ValueError("a value has no name")
    return value.name


class _LayerSums:
    """The sums of one layer, and what they lead to."""

    def __init__(self, layer: SummingLayer, seed: int, samples: int) -> None:
        self._layer = layer
        self._seed = seed
        self._samples = samples
        self._wanted: list[np.ndarray] = []
        groups, width, made = layer.matrix().shape
        self._sums = ResidualSums(groups, width, made)
        self._rows = int(np.clip(_ROWS_PER_INPUT * width // samples, _LEAST_ROWS, _MOST_ROWS))

    @property
    def most_bytes(self) -> int:
        """What the outputs that `observe_wanted` keeps take, at most."""
        return 4 * self._samples * self._rows * self._sums.groups * self._sums.made

    def observe_wanted(self, wanted: np.ndarray, index: int) -> None:
        """Keep what the layer should give for a sample, at the rows that are looked at."""
        rows = self._layer.outputs(wanted, lambda total: self._chosen(total, index))
        self._wanted.append(np.asarray(rows, np.float32))

    def observe(self, data: np.ndarray, made: np.ndarray, index: int) -> None:
        """Add a sample: the input and the output of the pruned layer; samples come in the same order."""
        inputs = self._layer.inputs(data, lambda total: self._chosen(total, index))
        missing = self._wanted[index] - self._layer.outputs(made, lambda total: self._chosen(total, index))
        self._wanted[index] = np.zeros(0, np.float32)  # it is not needed again
        self._sums.observe(inputs, missing, index)

    def _chosen(self, total: int, index: int) -> np.ndarray:
        """Which rows of a sample are looked at, of so many: the same in both models."""
        if total <= self._rows:
            return np.arange(total)
        return np.sort(np.random.default_rng((self._seed, index)).choice(total, self._rows, replace=False))

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


_Sums = dict[ir.Node, _LayerSums | NormalizationSums]
"""Of the nodes of one stage."""
