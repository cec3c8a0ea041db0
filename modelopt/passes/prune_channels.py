"""See `PruneChannels`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError, Refused, did_you_mean
from modelopt.graph import node_filters
from modelopt.passes.base import Pass, option
from modelopt.pruning import channel_removal, dependencies, masks
from modelopt.pruning.channel_groups import ChannelGroup, Channels, channels_of
from modelopt.pruning.dependency_rules import RULES
from modelopt.quant.static import existing_qdq


class GroupKind(Enum):
    """Which groups are pruned."""

    ALL = "all"
    CHANNEL = "channel"
    HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Remove whole channels, so that the model is smaller and does less work.

    Every axis of every tensor that must shrink with a channel does: the filters that make it, their bias and
    normalization, and the weights of all that read it. Where that cannot be proven the channel stays, with the reason.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    widths: tuple[str, ...] = option((), "how many channels to keep in a group: NAME=COUNT; others follow the sparsity")
    sparsity: float = option(0.5, "share of the channels of each group to remove, at least 0 and below 1")
    kind: GroupKind = option(  # noqa: RUF009 - it is dataclasses.field
        GroupKind.ALL, "which groups: channel, head (of attention), or all"
    )
    include: tuple[str, ...] = option(
        (), "only channels that nodes with these names make: globs, re:EXPRESSION or op:TYPE"
    )
    exclude: tuple[str, ...] = option((), "not channels that nodes with these names make")

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity {self.sparsity} is not in [0, 1)", hint="--sparsity 0.5 removes half")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Remove the weakest channels of each group."""
        require_float(model)
        node_filters.check_used((*self.include, *self.exclude), model.graph)
        with inferred(model, bind(graph.signature(model), {}), ctx.runner):
            found = dependencies.analyse(model, RULES)
            channels = channels_of(found)
        skipped = [Skip(f"{count:,} channels", why) for why, count in channels.refused.items()]
        removed: list[int] = []
        asked = self._asked(channels)
        widths: Counter[str] = Counter()
        for group in channels.groups:
            why = self.why_left_out(group)
            if why is not None:
                skipped.append(Skip(group.name, why))
                continue
            weakest = _weakest(group, group.width - self._kept(group, asked))
            removed += weakest
            widths[group.name] += len(weakest)
        channel_removal.remove(model, found, removed)
        return Changes(len([name for name in widths if widths[name]]), tuple(skipped), _facts(channels, widths))

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

    def _kept(self, group: ChannelGroup, asked: Mapping[str, int]) -> int:
        """How many channels of a group stay: one at least."""
        wanted = asked.get(group.name, group.width - int(self.sparsity * group.width))
        return min(max(wanted, 1), group.width)


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


def _weakest(group: ChannelGroup, count: int) -> list[int]:
    """The channels whose filters have the smallest norm."""
    scores = np.zeros(group.width)
    for producer in group.producers:
        tensor, place = graph.constant_tensor(producer.weight), group.by_place[producer.weight, producer.weight_axis]
        if tensor is not None:
            rows = np.moveaxis(np.abs(tensor.numpy().astype(np.float32)), producer.weight_axis, 0)
            sums = rows.reshape(rows.shape[0], -1).sum(1)
            scores += [sums[positions].sum() for positions in place.positions]
    return [atom for atom, gone in zip(group.channels, masks.smallest(scores, count), strict=True) if gone]


def _facts(channels: Channels, widths: Mapping[str, int]) -> dict[str, int]:
    return {
        "groups": len(channels.groups),
        "channels_before": sum(group.width for group in channels.groups),
        "channels_removed": sum(widths.values()),
    }
