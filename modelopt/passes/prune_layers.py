"""See `PruneLayers`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.core.errors import InputError, did_you_mean
from modelopt.graph import node_filters
from modelopt.passes.base import Pass, option
from modelopt.passes.prune_channels import require_float
from modelopt.pruning import block_importance, block_shapes, compensate, sparsity_range
from modelopt.pruning.repair_plan import RepairPlan
from modelopt.pruning.residual_blocks import MEANING, ResidualBlock, ResidualBlocks, gone_with, remove_block

_BLOCKS_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class PruneLayers(Pass):
    """Remove whole residual blocks: x + f(x) becomes x, so that the model is smaller and does less work.

    A block ends in a sum that has the shape of what is added to. What read the sum reads that, and all that only
    computed the rest goes. Where it cannot be proven that the shape stays, the block stays, with the reason. With
    calibration data the layers behind can be fitted to what the original computed, without training (`repair`).
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    shrinks: ClassVar[bool] = True

    blocks: tuple[str, ...] = option((), "the blocks to remove, by the names of the nodes that add; no others go then")
    count: int | None = option(None, "how many blocks to remove, in place of the sparsity")
    sparsity: float = option(0.5, "share of the blocks to remove, at least 0 and below 1; rounded to whole blocks")
    importance: str = option("l2", f"how blocks are ranked: {', '.join(block_importance.BLOCK_NAMES)}")
    repair: bool = option(default=False, text="fit the layers behind to the original; needs calibration data")
    include: tuple[str, ...] = option(
        (), "only blocks that hold nodes with these names: globs, re:EXPRESSION or op:TYPE"
    )
    exclude: tuple[str, ...] = option((), "not blocks that hold nodes with these names")

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        sparsity_range.check(self.sparsity)
        if self.count is not None and self.count < 0:
            raise InputError(f"count {self.count} is below 0", hint="count 2 removes the two that matter least")
        known = block_importance.BLOCK_NAMES
        if self.importance not in known:
            hint = did_you_mean(self.importance, known) or f"one of {', '.join(known)}"
            raise InputError(f"importance '{self.importance}' is not known", hint=hint)

    def calibrates(self) -> bool:
        """Repair and some measures of importance run the model on calibration data."""
        return self.repair or self.importance in block_importance.NEED_DATA_OF_BLOCKS

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Remove the blocks that are named, or those that matter least.

        Raises:
            InputError: No sum in the model looks like the end of a block; an option names nothing, or needs
                calibration data that are not there.
            Refused: The model is quantized already, or onnxruntime does not run the model on the calibration data.
        """
        require_float(model)
        node_filters.check_used((*self.include, *self.exclude), model.graph)
        if self.repair and not ctx.calibration:
            raise InputError("repair needs calibration data", hint="--calib data/")
        found = found_blocks(model, ctx)
        skipped = [Skip(f"{count:,} sums", why) for why, count in found.refused.items()]
        skipped += [Skip(block.name, why) for block in found.blocks if (why := self.why_left_out(block))]
        gone = self._chosen(model, found, ctx)
        facts: dict[str, Fact] = {"blocks_before": len(found.blocks), "blocks_removed": len(gone)}
        if not gone:
            return Changes(0, tuple(skipped), facts)
        names = [block.name for block in gone]
        more = f" and {len(names) - _BLOCKS_SHOWN} more" if len(names) > _BLOCKS_SHOWN else ""
        facts["removed"] = ", ".join(names[:_BLOCKS_SHOWN]) + more
        original = model.clone() if self.repair else None
        readers = {use.node for block in gone for use in block.add.outputs[0].uses()}
        for block in gone:
            remove_block(block)
        if original is not None:
            plan = RepairPlan.behind(model, readers, found.level_sums)
            repaired = compensate.fit(original, model, plan, ctx)
            skipped += [Skip(name, f"it is not repaired: {why}") for name, why in repaired.refused]
            facts["layers_repaired"] = repaired.layers
        return Changes(len(gone), tuple(skipped), facts)

    def why_left_out(self, block: ResidualBlock) -> str | None:
        """Why the options leave a block as it is; None where they do not."""
        nodes = (block.add, *block.nodes)
        if self.include and all(node_filters.why_left_out(node, self.include, ()) for node in nodes):
            return "not included"
        return "excluded" if any(node_filters.why_left_out(node, (), self.exclude) for node in nodes) else None

    def ranked(self, model: ir.Model, found: ResidualBlocks, ctx: Context) -> Mapping[str, float]:
        """How much each block matters that the options permit to remove, the least important first.

        Raises:
            InputError: The measure needs calibration data and there are none.
            Refused: onnxruntime does not run the model on them.
        """
        permitted = self._permitted(found)
        scores = block_importance.scores(self.importance, model, permitted, ctx)
        return dict(sorted(scores.items(), key=lambda each: each[1]))

    def _permitted(self, found: ResidualBlocks) -> list[ResidualBlock]:
        """Blocks that the options permit to remove, with all blocks inside them."""
        left_out = {block.name for block in found.blocks if self.why_left_out(block)}
        return [
            block
            for block in found.blocks
            if not any(each.name in left_out for each in gone_with([block], found.blocks))
        ]

    def _chosen(self, model: ir.Model, found: ResidualBlocks, ctx: Context) -> tuple[ResidualBlock, ...]:
        """What goes, in the order of the model.

        Raises:
            InputError: A name is that of no block, or of one that other options leave as it is.
        """
        permitted = {block.name: block for block in self._permitted(found)}
        for name in self.blocks:
            if name not in permitted:
                hint = did_you_mean(name, permitted) or "--explain shows which sums cannot go, and why"
                raise InputError(f"blocks '{name}' names no residual block that can go", hint=hint)
        if self.blocks:
            return gone_with([permitted[name] for name in self.blocks], found.blocks)
        wanted = math.floor(self.sparsity * len(permitted) + 0.5) if self.count is None else self.count
        gone: tuple[ResidualBlock, ...] = ()
        for name in self.ranked(model, found, ctx) if wanted else ():
            more = gone_with([*gone, permitted[name]], found.blocks)
            gone = more if len(more) <= wanted else gone
        return gone


def found_blocks(model: ir.Model, ctx: Context) -> ResidualBlocks:
    """The residual blocks of a model.

    Raises:
        InputError: It has none, and nothing that looks like one.
    """
    found = block_shapes.find(model, ctx.runner)
    if not found.blocks and not found.refused:
        sums = sum(graph.is_standard(node, "Add") for node in model.graph)
        note = f"{MEANING}; none of the {sums:,} sums of this model is one" if sums else f"{MEANING}; it adds nothing"
        raise InputError("the model has no residual block to remove", note=note, hint="--pattern channel")
    return found
