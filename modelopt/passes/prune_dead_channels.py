"""Remove channels that no output needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError
from modelopt.passes.base import Pass, option
from modelopt.pruning import channel_removal, dependencies, interval_rules
from modelopt.pruning.dead_channels import DeadChannels, may_have_any, products
from modelopt.pruning.dependency_rules import RULES
from modelopt.pruning.value_intervals import value_bounds

_FIRST_OPSET = 7
"""Older ones broadcast by attributes."""


@dataclass(frozen=True, kw_only=True)
class PruneDeadChannels(Pass):
    """Remove channels that hold one number for every input, and channels that nothing reads.

    A channel holds one number where its filter is zero, where the scale of its normalization is, and where its
    activation cuts off all that can reach it: ReLU of what interval arithmetic shows to be negative for every input, a
    product with zero. What it adds to the sums behind it goes into their biases. A convolution that pads with zeros
    would see the number everywhere but at its borders: there only channels of zeros go. Nothing reads a channel whose
    weights are zero in all nodes that sum over it, or make only channels that go themselves.

    Kernels work on blocks of channels: a depthwise convolution of 143 channels takes longer than one of 144. So a
    width that is a multiple of `align`, or of a divisor of it, stays one, and not all dead channels go. Only the main
    graph is looked at.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    finite_only: ClassVar[bool] = True  # zero times NaN or infinity is NaN

    align: int = option(16, "widths stay multiples of this, or of as large a divisor of it as before; 1 removes all")

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        if self.align < 1:
            raise InputError(f"align {self.align} is below 1", hint="align: 1 removes all dead channels")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Remove them until there are none left."""
        removed = 0
        while True:
            count, skipped = _remove(model, ctx, self.align) if _is_worth_a_look(model, self.align) else (0, ())
            removed += count
            if not count:
                return Changes(removed, skipped, {"channels_removed": removed} if removed else {})


def _is_worth_a_look(model: ir.Model, align: int) -> bool:
    """Whether a channel may be dead, as far as the shapes tell that the values have: most models end here."""
    if any(graph.rank(node.inputs[0]) is None for node in products(model)):
        return True
    return may_have_any(model, value_bounds(model, interval_rules.RULES), align)


def _remove(model: ir.Model, ctx: Context, align: int) -> tuple[int, tuple[Skip, ...]]:
    """Remove the dead channels that are known now: how many, and why others stay."""
    if graph.opset(model) < _FIRST_OPSET:
        return 0, (Skip("model", f"operators of opset {graph.opset(model)} broadcast by attributes"),)
    with inferred(model, bind(graph.signature(model), {}), ctx.runner) as failure:
        if failure is not None:
            return 0, (Skip("model", f"shapes cannot be inferred: {failure}"),)
        bounds = value_bounds(model, interval_rules.RULES)
        if not may_have_any(model, bounds, align):
            return 0, ()
        channels = DeadChannels(dependencies.analyse(model, RULES), bounds, align)
        dead = channels.dead()
        shares = channels.shares(dead)
    if dead:
        names = graph.NameSource(model)
        channel_removal.remove(model, channels.found, dead)
        for share in shares:
            share.store(names)
    return len(dead), tuple(channels.skipped)
