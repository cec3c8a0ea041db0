"""What a search over residual blocks may remove: the blocks by importance, and what is saved without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from modelopt import graph
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.passes.prune_channels import require_float
from modelopt.passes.prune_layers import PruneLayers, found_blocks
from modelopt.pruning.block_work import BlockWork
from modelopt.pruning.channel_macs import sample_sizes
from modelopt.pruning.channel_work import Widths
from modelopt.pruning.residual_blocks import gone_with
from modelopt.report import GroupWidth
from modelopt.search.candidates import Candidate, Candidates
from modelopt.search.prunable import Prunable
from modelopt.search.pruning_path import PathStep


class RemovableBlocks:
    """The residual blocks of a model, each a group of width 1 that may get width 0.

    Args:
        candidates: Builds models.
        floats: The model with all blocks.
        step: The pass that removes blocks, with its importance, its repair and what it leaves out.
        timed: Whether latency is measured; otherwise multiply-accumulates stand in for it.

    Attributes:
        unit: What a report calls one.
        align: For a report: blocks come one by one.
        align_measured: Whether that was measured.
        whole: The model with all blocks.
        widths: 1 for each block that the options permit to remove.
        refused: By reason, how many sums look like the end of a block and must stay.
        timed: Whether latency is measured.
    """

    unit = "block"
    align = 1
    align_measured = False

    def __init__(self, candidates: Candidates, floats: Candidate, step: PruneLayers, *, timed: bool) -> None:
        self._candidates = candidates
        self._step = step
        self.whole = floats
        model, context = candidates.load(floats), candidates.context
        require_float(model)
        found = found_blocks(model, context)
        self.refused: Mapping[str, int] = found.refused
        self._scores = step.ranked(model, found, context)
        self._blocks = {block.name: block for block in found.blocks if block.name in self._scores}
        self.widths: Widths = dict.fromkeys(self._blocks, 1)
        sizes = sample_sizes(model, candidates.bench_feeds()[0])
        with inferred(model, bind(graph.signature(model), sizes), context.runner):
            self._work = BlockWork(model, found.blocks)
        self._node_ns = candidates.kernel_ns(floats) if timed and self._blocks else {}
        self.timed = bool(self._node_ns)

    @property
    def whole_cost(self) -> float:
        """What the whole model costs: nanoseconds, or multiply-accumulates."""
        return self._cost(())

    def path(self) -> list[PathStep]:
        """The models from the whole one on, each without the least important block that is left and saves anything."""
        found = [PathStep(self.widths, self.whole_cost, 0.0)]
        for name in self._scores:
            before = found[-1]
            blocks = [self._blocks[each] for each in (*_gone(before.widths), name)]
            gone = [block.name for block in gone_with(blocks, list(self._blocks.values()))]
            cost = self._cost(gone)
            if cost < before.cost:
                found.append(PathStep({**self.widths, **dict.fromkeys(gone, 0)}, cost, 0.0))
        return found

    def removed(self, widths: Widths) -> float:
        """The share of the blocks that is gone."""
        return len(_gone(widths)) / max(len(self._blocks), 1)

    def macs_left(self, widths: Widths) -> float | None:
        """The share of the multiply-accumulates that is left; None where they are not known."""
        whole = self._work.macs()
        return self._work.macs(_gone(widths)) / whole if whole else None

    def size_bytes(self, widths: Widths) -> float:
        """About how large the model's file is."""
        return self.whole.size_bytes - self._work.bytes_saved(_gone(widths))

    @property
    def repairs(self) -> bool:
        """Whether the pass repairs."""
        return self._step.repair

    def step(self, widths: Widths, *, repair: bool = True) -> PruneLayers:
        """The pass that removes the blocks whose width is 0; without `repair` it repairs nothing."""
        repair = self.repairs and repair
        return dataclasses.replace(self._step, blocks=tuple(_gone(widths)), count=None, sparsity=0.0, repair=repair)

    def build(self, widths: Widths, *, repair: bool = True) -> Candidate:
        """The model without these blocks, repaired as the pass says if `repair` is not False.

        Raises:
            ModeloptError: As the pass.
        """
        return self._candidates.build(self.whole, (self.step(widths, repair=repair),))

    def kernels_ns(self, candidate: Candidate) -> float | None:
        """The nanoseconds that the kernels of a model take; None where latency is not measured."""
        return float(sum(self._candidates.kernel_ns(candidate).values())) if self.timed else None

    def groups_found(self, widths: Widths, _scanned: Mapping[str, tuple[int, float]]) -> tuple[GroupWidth, ...]:
        """The blocks for a report, in the order of the model."""
        return tuple(
            GroupWidth(group=name, kind=self.unit, before=1, after=widths[name], importance=self._scores[name])
            for name in self._blocks
        )

    def _cost(self, gone: tuple[str, ...] | list[str]) -> float:
        return self._work.ns(self._node_ns, gone) if self._node_ns else float(self._work.macs(gone))


Shrinkable = Prunable | RemovableBlocks
"""What a search makes smaller: the widths of channels, or the number of blocks."""


def _gone(widths: Widths) -> list[str]:
    return [name for name, width in widths.items() if not width]
