"""Holds pruned models against the original whose consumers multiply the same channels by zero.

    python -m tests.campaigns.pruned MODEL… [--share 0.5] [--seed 0]

That oracle is exact for any activation between the two: what is removed is what its readers would not use. Channels are
drawn at random, from each group by itself and then from all groups together. Each pruned model must load, run at two
batch sizes, and give the outputs of the zeroed original within float rounding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph, io
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.io import serialize
from modelopt.pruning import channel_removal
from modelopt.pruning.channel_groups import ChannelGroup, Channels, channels_of
from modelopt.pruning.dependencies import Dependencies, analyse
from modelopt.pruning.dependency_rules import RULES
from modelopt.runtime.worker_runner import WorkerRunner

_TOLERANCE = 1e-4
"""Of the largest output; other kernels add in another order."""


@dataclass(frozen=True)
class Held:
    """What became of one model.

    Attributes:
        groups: How many groups were found.
        channels: How many channels may go.
        removed: How many went, all groups together.
        error: The largest difference to the zeroed original, relative to its largest output.
    """

    groups: int
    channels: int
    removed: int
    error: float


def found_in(model: ir.Model, runner: WorkerRunner) -> tuple[Dependencies, Channels]:
    """The dependencies of a model and its groups of channels."""
    with inferred(model, bind(graph.signature(model), {}), runner):
        found = analyse(model, RULES)
    return found, channels_of(found)


def drawn(group: ChannelGroup, share: float, rng: np.random.Generator) -> list[int]:
    """A share of the channels of a group, at least one of two or more, never all."""
    count = min(max(1, int(share * group.width)), group.width - 1)
    return [int(atom) for atom in rng.permutation(np.array(group.channels))[:count]]


def hold(content: bytes, runner: WorkerRunner, feeds: Sequence[dict[str, np.ndarray]], share: float, seed: int) -> Held:
    """Prune one model and compare.

    Args:
        content: The serialized model.
        runner: Runs models.
        feeds: Inputs.
        share: Of each group.
        seed: Decides which channels.

    Raises:
        Refused: The pruned model does not load or run.
        AssertionError: It has other shapes.
    """
    rng = np.random.default_rng(seed)
    pruned, zeroed = serialize.from_bytes(content), serialize.from_bytes(content)
    found, channels = found_in(pruned, runner)
    twins = {group.name: group for group in found_in(zeroed, runner)[1].groups}
    removed: list[int] = []
    for group in channels.groups:
        if group.width > 1:
            removed += drawn(group, share, rng)
    for group in twins.values():
        channel_removal.zero(group, [atom for atom in removed if atom in set(group.channels)])
    channel_removal.remove(pruned, found, removed)
    total = sum(group.width for group in channels.groups)
    before = list(runner.run(zeroed, feeds))
    after = list(runner.run(pruned, feeds))
    worst = 0.0
    for first, second in zip(before, after, strict=True):
        for expected, actual in zip(first, second, strict=True):
            assert expected.shape == actual.shape
            scale = float(np.abs(expected).max()) or 1.0
            worst = max(worst, float(np.abs(expected - actual).max()) / scale)
    return Held(len(channels.groups), total, len(removed), worst)


def random_feeds(model: ir.Model, seed: int) -> list[dict[str, np.ndarray]]:
    """Two feeds of random numbers, of one sample and, where the batch is open, of two."""
    rng = np.random.default_rng(seed)
    feeds = []
    for batch in (1, 2):
        feed = {}
        for spec in graph.signature(model).inputs:
            shape = [
                dim if isinstance(dim, int) and dim >= 0 else (batch if axis == 0 else 8)
                for axis, dim in enumerate(spec.shape or ())
            ]
            if spec.dtype.startswith("float"):
                feed[spec.name] = rng.normal(size=shape).astype(spec.dtype)
            else:
                feed[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
        feeds.append(feed)
    return feeds


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    failed = 0
    with closing(WorkerRunner()) as runner:
        for path in asked.models:
            with tempfile.TemporaryDirectory() as scratch:
                model = io.load(path, scratch=Path(scratch)).model
                content = serialize.to_bytes(model)
                held = hold(content, runner, random_feeds(model, asked.seed), asked.share, asked.seed)
            print(f"{path.parent.name}/{path.name}: {held}", flush=True)
            failed += held.error > _TOLERANCE
            for why, count in sorted(found_in(model, runner)[1].refused.items(), key=lambda each: -each[1])[:6]:
                print(f"  {count:6,} stay: {why}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
