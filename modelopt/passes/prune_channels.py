"""See `PruneChannels`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.core.errors import InputError, Refused, did_you_mean
from modelopt.graph import node_filters
from modelopt.passes.base import Pass, option
from modelopt.pruning import channel_macs, channel_removal, compensate, dependencies, importance, sparsity_range
from modelopt.pruning.activation_importance import importance_of
from modelopt.pruning.channel_groups import ChannelGroup, Channels, channels_of
from modelopt.pruning.channel_macs import ChannelMacs
from modelopt.pruning.dependency_rules import RULES
from modelopt.quant.static import existing_qdq


class GroupKind(Enum):
    """Which groups are pruned."""

    ALL = "all"
    CHANNEL = "channel"
    HEAD = "head"


_WIDTHS_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Remove whole channels, so that the model is smaller and does less work.

    Every axis of every tensor that must shrink with a channel does: the filters that make it, their bias and
    normalization, and the weights of all that read it. Where that cannot be proven the channel stays, with the reason.
    With calibration data the layers behind can be fitted to what the original computed, without training (`repair`).
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    shrinks: ClassVar[bool] = True

    widths: tuple[str, ...] = option((), "how many channels to keep in a group: NAME=COUNT; others follow the sparsity")
    sparsity: float = option(0.5, "share of the channels of each group to remove, at least 0 and below 1")
    kind: GroupKind = option(  # noqa: RUF009 - it is dataclasses.field
        GroupKind.ALL, "which groups: channel, head (of attention), or all"
    )
    macs: float | None = option(
        None, "share of the multiply-accumulates to keep, above 0 and at most 1: decides the sparsity of all groups"
    )
    align: int = option(1, "kept channels are a multiple of this where a group has as many; not those of heads")
    importance: str = option("l2", f"how channels are ranked: {', '.join(importance.NAMES)}")
    repair: bool = option(default=False, text="fit the layers behind to the original; needs calibration data")
    repair_depth: int | None = option(
        None, "how many layers one behind another are repaired, from those that read what is removed on; all by default"
    )
    include: tuple[str, ...] = option(
        (), "only channels that nodes with these names make: globs, re:EXPRESSION or op:TYPE"
    )
    exclude: tuple[str, ...] = option((), "not channels that nodes with these names make")

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        sparsity_range.check(self.sparsity)
        if self.macs is not None and not 0 < self.macs <= 1:
            raise InputError(f"macs {self.macs} is not in (0, 1]", hint="macs 0.7 keeps 70 % of them")
        if self.align < 1:
            raise InputError(f"align {self.align} is no multiple", hint="align 8 keeps 8, 16, 24 … channels; 1 any")
        if self.repair_depth is not None and self.repair_depth < 1:
            raise InputError(f"repair_depth {self.repair_depth} is no number of layers", hint="repair_depth 1 or more")
        if self.importance not in importance.NAMES:
            known = did_you_mean(self.importance, importance.NAMES)
            hint = known or f"one of {', '.join(importance.NAMES)}"
            raise InputError(f"importance '{self.importance}' is not known", hint=hint)

    def calibrates(self) -> bool:
        """Repair and some measures of importance run the model on calibration data."""
        return self.repair or self.importance in importance.NEED_DATA

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Remove the weakest channels of each group.

        Raises:
            InputError: An option names nothing, cannot be reached, or needs calibration data that are not there.
            Refused: The model is quantized already, or onnxruntime does not run the model on the calibration data.
        """
        require_float(model)
        node_filters.check_used((*self.include, *self.exclude), model.graph)
        if self.repair and not ctx.calibration:
            raise InputError("repair needs calibration data", hint="--calib data/")
        with inferred(model, bind(graph.signature(model), {}), ctx.runner):
            found = dependencies.analyse(model, RULES)
            channels = channels_of(found)
        with inferred(model, bind(graph.signature(model), _sizes(model, ctx)), ctx.runner):
            counted = ChannelMacs.of(model, found)
        skipped = [Skip(f"{count:,} channels", why) for why, count in channels.refused.items()]
        skipped += [Skip(f"{count:,} nodes", why) for why, count in channels.unproven.items()]
        skipped += [Skip(group.name, why) for group in channels.groups if (why := self.why_left_out(group))]
        groups = [group for group in channels.groups if not self.why_left_out(group)]
        asked = self._asked(channels)
        measure = importance_of(self.importance, model, groups, ctx)
        ranked = {group.name: _ranked(group, measure.scores(group)) for group in groups}
        share = self._share(groups, asked, ranked, counted)
        kept = {group.name: self._kept(group, asked, share) for group in groups}
        removed = _removed(groups, ranked, kept)
        original = model.clone() if self.repair and removed else None
        macs_after = counted.without(removed)
        channel_removal.remove(model, found, removed)
        facts = _facts(channels, kept, len(removed)) | {"macs_before": counted.total, "macs_after": macs_after}
        if original is not None:
            repaired = compensate.repair(original, model, found, frozenset(removed), ctx, self.repair_depth)
            skipped += [Skip(name, f"it is not repaired: {why}") for name, why in repaired.refused]
            facts["layers_repaired"] = repaired.layers
        changed = sum(kept[group.name] < group.width for group in groups)
        return Changes(changed, tuple(skipped), facts)

    def why_left_out(self, group: ChannelGroup) -> str | None:
        """Why the options leave a group as it is; None where they do not."""
        if self.kind is not GroupKind.ALL and group.is_heads is not (self.kind is GroupKind.HEAD):
            return f"kind {self.kind.value} leaves {'heads' if group.is_heads else 'channels'} as they are"
        left_out = (node_filters.why_left_out(each.node, self.include, self.exclude) for each in group.producers)
        return next((why for why in left_out if why), None)

    def _asked(self, channels: Channels) -> dict[str, int]:
        """The widths that the option names.

        Raises:
            InputError: One is no number, or names no group.
        """
        known = [group.name for group in channels.groups]
        asked: dict[str, int] = {}
        for text in self.widths:
            name, _, number = text.rpartition("=")
            if not name or not number.isdecimal():
                raise InputError(f"widths '{text}' is not NAME=COUNT")
            if name not in known:
                raise InputError(f"widths '{text}' names no group of channels", hint=did_you_mean(name, known))
            asked[name] = int(number)
        return asked

    def _share(
        self,
        groups: list[ChannelGroup],
        asked: Mapping[str, int],
        ranked: Mapping[str, list[int]],
        counted: ChannelMacs,
    ) -> float:
        """The share of channels to remove from groups that no width is asked for.

        Raises:
            InputError: The MACs that the option asks for cannot be reached, or are not known.
        """
        if self.macs is None:
            return self.sparsity
        if not counted.total:
            raise InputError(
                "the multiply-accumulates of the model are not known: its inputs have open sizes",
                hint="--calib data/ says how large they are, or --sparsity in place of --target-macs",
            )

        def removed_for(share: float) -> list[int]:
            return _removed(groups, ranked, {group.name: self._kept(group, asked, share) for group in groups})

        least = counted.without(removed_for(1.0)) / counted.total
        if least > self.macs:
            raise InputError(
                f"macs {self.macs:g} cannot be reached: {least:.0%} are left without all channels that may go",
                hint="--explain shows which channels must stay, and why",
            )
        return channel_macs.share_for(counted, self.macs, removed_for)

    def _kept(self, group: ChannelGroup, asked: Mapping[str, int], share: float) -> int:
        """How many channels of a group stay: one at least."""
        if group.name in asked:
            return min(max(asked[group.name], 1), group.width)
        wanted = max(group.width - int(share * group.width), 1)
        if group.is_heads or self.align == 1:
            return wanted
        return min(math.ceil(wanted / self.align) * self.align, group.width)


def require_float(model: ir.Model) -> None:
    """Refuse a quantized model: its scales belong to channels, and were measured with all of them.

    Raises:
        Refused: As said.
    """
    node = existing_qdq.first_integer_node(model)
    if node is not None:
        raise Refused(
            "channels of a quantized model are not pruned",
            note=f"it holds {graph.label(node)}",
            hint="prune the float model first, then quantize the result",
        )


def _sizes(model: ir.Model, ctx: Context) -> dict[str, int]:
    """The open sizes of the inputs, from the first calibration sample; none without data."""
    sample = next(iter(ctx.calibration), None) if ctx.calibration else None
    return {} if sample is None else channel_macs.sample_sizes(model, sample.feeds)


def _ranked(group: ChannelGroup, scores: np.ndarray) -> list[int]:
    """The channels, the least important first; of equal ones the first goes first."""
    return [group.channels[index] for index in np.argsort(scores, kind="stable").tolist()]


def _removed(groups: list[ChannelGroup], ranked: Mapping[str, list[int]], kept: Mapping[str, int]) -> list[int]:
    return [atom for group in groups for atom in ranked[group.name][: group.width - kept[group.name]]]


def _facts(channels: Channels, kept: Mapping[str, int], removed: int) -> dict[str, Fact]:
    changed = [
        f"{group.name} {group.width}→{kept[group.name]}"
        for group in channels.groups
        if kept.get(group.name, group.width) < group.width
    ]
    shown = ", ".join(changed[:_WIDTHS_SHOWN])
    facts: dict[str, Fact] = {
        "groups": len(channels.groups),
        "channels_before": sum(group.width for group in channels.groups),
        "channels_removed": removed,
    }
    if changed:
        facts["widths"] = shown if len(changed) <= _WIDTHS_SHOWN else f"{shown} and {len(changed) - _WIDTHS_SHOWN} more"
    return facts
