"""Repair of a pruned model without training: layers are fitted in closed form to what the original computed.

From input to output each layer that computes from wrong inputs, because its input lost channels or because an earlier
layer's did, gets the weights and the bias that make it closest to the original's output on calibration samples (see
`ridge`); what a later layer sees is repaired already. Weights move as little as the data want: the fit starts from those
that stay, and its damping is chosen on samples that it was not fitted to. So the weights of what was removed are moved to
what can stand in for it, as in He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.2,
and Frantar and Alistarh 2022, "Optimal Brain Compression". A BatchNormalization with wrong inputs gets statistics that
give each channel the mean and the deviation that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from modelopt.pruning.ridge import FOLDS, ResidualSums
from modelopt.pruning.summing_layer import SummingLayer

_MOST_INPUTS = 2304
"""Inputs that an output may sum over: the sums hold the square of that."""

_ROWS_PER_INPUT = 64
_LEAST_ROWS = 256
_MOST_ROWS = 4096
"""Rows of a layer for each sample: over all samples about `_ROWS_PER_INPUT` for each input, within these limits."""


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
    total = sample_count(ctx)
    plan = RepairPlan.of(pruned, found, removed)
    refused = list(plan.refused)
    names = graph.NameSource(pruned)
    done = 0
    for number, stage in enumerate(plan.stages):
        sums: dict[ir.Node, _LayerSums | NormalizationSums] = {}
        for node in stage:
            layer = layer_of(node)
            if layer is None:
                sums[node] = NormalizationSums(node)
            elif layer.matrix().shape[1] > _MOST_INPUTS:
                refused.append((graph.name_of(node), "each output sums over so many inputs that a fit would take long"))
            else:
                sums[node] = _LayerSums(layer, ctx.seed, total)
        _observe(original, pruned, plan, sums, ctx)
        done += sum(each.apply(names) for each in sums.values())
        ctx.progress("repairing layers", number + 1, len(plan.stages))
    return Repaired(done, tuple(refused))


def _observe(
    original: ir.Model,
    pruned: ir.Model,
    plan: RepairPlan,
    sums: Mapping[ir.Node, _LayerSums | NormalizationSums],
    ctx: Context,
) -> None:
    if not sums:
        return
    made = {node: node.outputs[0] for node in sums}
    needed = {node: _name(node.inputs[1 if _data_is_second(node) else 0]) for node in sums}
    before = run_to(original, [_name(value) for value in made.values()], ctx)
    after = run_to(pruned, [*map(_name, made.values()), *needed.values()], ctx)
    for index, (first, second) in enumerate(zip(before, after, strict=True)):
        for node, each in sums.items():
            name = _name(made[node])
            each.observe(second[needed[node]], plan.kept_part(made[node], first[name]), second[name], index)


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
        groups, width, made = layer.matrix().shape
        self._sums = [ResidualSums(width, made) for _ in range(groups)]
        self._rows = int(np.clip(_ROWS_PER_INPUT * width // samples, _LEAST_ROWS, _MOST_ROWS))

    def observe(self, data: np.ndarray, wanted: np.ndarray, made: np.ndarray, index: int) -> None:
        """Add a sample: the input and the output of the pruned layer, and the output that it should have."""
        rng = np.random.default_rng((self._seed, index))
        total = self._layer.row_count(made)
        chosen = np.arange(total) if total <= self._rows else np.sort(rng.choice(total, self._rows, replace=False))

        def choose(_total: int) -> np.ndarray:
            return chosen

        inputs = self._layer.inputs(data, choose)
        missing = self._layer.outputs(np.asarray(wanted, np.float64) - made, choose)
        for group, sums in enumerate(self._sums):
            sums.observe(inputs[:, group], missing[:, group], index % FOLDS)

    def apply(self, names: graph.NameSource) -> bool:
        """Give the layer its new weights; says whether they differ."""
        bias = layer_bias.of(self._layer)
        found = [sums.correction(intercept=bias is not None) for sums in self._sums]
        if all(each is None for each in found):
            return False
        zeros = [(np.zeros((sums.width, sums.made)), np.zeros(sums.made)) for sums in self._sums]
        parts = [zero if each is None else (each.matrix, each.bias) for each, zero in zip(found, zeros, strict=True)]
        matrix = self._layer.matrix() + np.stack([part[0] for part in parts])
        graph.set_constant(self._layer.weight, self._layer.stored(matrix))
        if bias is not None:
            bias.add(np.concatenate([part[1] for part in parts]), names)
        return True
