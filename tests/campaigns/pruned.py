"""Holds pruned models against the original whose consumers multiply the same channels by zero.

    python -m tests.campaigns.pruned [MODEL…] [--count 400] [--share 0.5] [--seed 0]

That oracle is exact for any activation between the two: what is removed is what its readers would not use. What they
read there becomes zero too, because zero times an infinity, stored or computed, is no zero. Without
models it takes generated ones. Channels of all groups are drawn at random and removed together. Each pruned model must
load, run at two batch sizes, and give the outputs of the zeroed original within float rounding. So must each model
without half of its residual blocks, held against the one in which their last layers make zeros.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph, io
from modelopt.calibration.context import Context
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.core import targets
from modelopt.core.errors import ModeloptError
from modelopt.io import serialize
from modelopt.passes.prune_layers import PruneLayers
from modelopt.pruning import block_shapes, channel_removal
from modelopt.pruning.channel_groups import ChannelGroup, Channels, channels_of
from modelopt.pruning.dependencies import Dependencies, analyse
from modelopt.pruning.dependency_rules import RULES
from modelopt.pruning.residual_blocks import gone_with, zero_block
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns import prunable_models

_FIRST_WHERE = 9
_TOLERANCE = 1e-4
"""Of the largest output; other kernels add in another order."""


@dataclass(frozen=True)
class Held:
    """What became of one model.

    Attributes:
        groups: How many groups were found.
        heads: How many of them are heads.
        channels: How many channels may go.
        removed: How many went, all groups together.
        moved: How far the outputs of the zeroed original are from those of the original, relative to the largest.
        error: The largest difference to the zeroed original, relative to its largest output.
        refused: By reason, how many channels must stay.
    """

    groups: int
    heads: int
    channels: int
    removed: int
    moved: float
    error: float
    refused: dict[str, int] = field(repr=False)


def found_in(model: ir.Model, runner: WorkerRunner) -> tuple[Dependencies, Channels]:
    """The dependencies of a model and its groups of channels."""
    with inferred(model, bind(graph.signature(model), {}), runner):
        found = analyse(model, RULES)
    return found, channels_of(found)


def drawn(group: ChannelGroup, share: float, rng: np.random.Generator) -> list[int]:
    """A share of the channels of a group, at least one of two or more, never all."""
    count = min(max(1, int(share * group.width)), group.width - 1)
    return [int(atom) for atom in rng.permutation(np.array(group.channels))[:count]]


def hold(
    model: ir.Model, runner: WorkerRunner, feeds: Sequence[dict[str, np.ndarray]], share: float, seed: int
) -> Held:
    """Prune one model and compare.

    Args:
        model: The model; it is changed.
        runner: Runs models.
        feeds: Inputs.
        share: Of each group.
        seed: Decides which channels.

    Raises:
        ModeloptError: The pruned model does not load or run.
        AssertionError: It has other shapes.
    """
    rng = np.random.default_rng(seed)
    plain = list(runner.run(model, feeds))
    found, channels = found_in(model, runner)
    removed: list[int] = []
    saved = {each.weight: each.weight.const_value for each in found.consumers}
    arrays = {value: graph.constant(value) for value in saved}
    for group in channels.groups:
        atoms = drawn(group, share, rng) if group.width > 1 else []
        channel_removal.zero(group, atoms)
        removed += atoms
    with _zeros_read(model, found, removed):
        zeroed = list(runner.run(model, feeds))
    for value, array in arrays.items():
        if array is not None:
            graph.set_constant(value, array)
    channel_removal.remove(model, found, removed)
    after = list(runner.run(model, feeds))
    return Held(
        groups=len(channels.groups),
        heads=sum(group.is_heads for group in channels.groups),
        channels=sum(group.width for group in channels.groups),
        removed=len(removed),
        moved=_difference(plain, zeroed),
        error=_difference(zeroed, after),
        refused={**channels.refused, **{f"{why} (nodes)": count for why, count in channels.unproven.items()}},
    )


def _axes_behind(node: ir.Node, data: ir.Value, weights: np.ndarray | None) -> int | None:
    """How many axes of its input are behind the one that a node sums over; None where that is not asked for here."""
    if node.op_type in {"Conv", "ConvTranspose", "FusedConv"}:
        return None if weights is None else weights.ndim - 2
    return (
        0 if node.op_type in {"MatMul", "Gemm"} and node.inputs[0] is data and "transA" not in node.attributes else None
    )


@contextmanager
def _zeros_read(model: ir.Model, found: Dependencies, removed: Sequence[int]) -> Iterator[None]:
    """For a while convolutions and products that sum over these channels read zeros there."""
    names = graph.NameSource(model)
    changed = []
    for consumer in found.consumers:
        node, data = consumer.node, consumer.data
        labels, weights = found.axes(data).get(consumer.data_axis), graph.constant(consumer.weight)
        behind = _axes_behind(node, data, weights)
        if labels is None or weights is None or behind is None or found.opset < _FIRST_WHERE:
            continue
        stays = ~np.isin(found.atoms.roots(labels), removed)
        if stays.all():
            continue
        mask = graph.add_initializer(model.graph, names("stays"), stays.reshape(-1, *[1] * behind))
        zero = graph.add_initializer(model.graph, names("nothing"), np.zeros((), weights.dtype))
        read = ir.node("Where", [mask, data, zero], name=names("read"))
        read.outputs[0].name = names("read")
        model.graph.insert_before(node, read)
        node.replace_input_with(0, read.outputs[0])
        changed.append((node, data, read))
    yield
    for node, data, read in changed:
        node.replace_input_with(0, data)
        graph.remove_with_constants(read)


def hold_blocks(
    model: ir.Model, runner: WorkerRunner, feeds: Sequence[dict[str, np.ndarray]], seed: int
) -> tuple[int, float]:
    """Remove half of the residual blocks, and let the last layers of the same ones make zeros in a copy.

    Returns:
        How many blocks went, and the largest difference, relative to the largest output.
    """
    zeroed = serialize.from_bytes(serialize.to_bytes(model))
    blocks = block_shapes.find(zeroed, runner).blocks
    if not blocks:
        return 0, 0.0
    order = np.random.default_rng(seed).permutation(len(blocks))[: (len(blocks) + 1) // 2]
    gone = gone_with([blocks[index] for index in order], blocks)
    context = Context(runner=runner, target=targets.resolve("x86-vnni"))
    PruneLayers(blocks=tuple(block.name for block in gone)).apply(model, context)
    names = graph.NameSource(zeroed)
    for block in gone:
        zero_block(block, names)
    return len(gone), _difference(list(runner.run(zeroed, feeds)), list(runner.run(model, feeds)))


def _difference(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest difference of two runs, relative to the largest output; infinite where one has a NaN alone."""
    worst = 0.0
    pairs = [pair for runs in zip(before, after, strict=True) for pair in zip(*runs, strict=True)]
    for expected, actual in pairs:
        assert expected.shape == actual.shape
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) or 1.0
        with np.errstate(invalid="ignore"):
            gaps = np.where(same, 0, np.abs(np.asarray(expected, np.float64) - actual))
        worst = max(worst, float(np.nan_to_num(gaps, nan=np.inf).max(initial=0)) / scale)
    return worst


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


def generated(count: int, seed: int) -> Iterator[tuple[str, ir.Model]]:
    """Generated models with their names."""
    for number in range(seed, seed + count):
        yield f"generated {number}", serialize.from_bytes(prunable_models.model(number).SerializeToString())


def _stored(paths: Sequence[Path]) -> Iterator[tuple[str, ir.Model]]:
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            model = io.load(path, scratch=Path(scratch)).model
            yield str(path), serialize.from_bytes(serialize.to_bytes(model))


def feeds_for(name: str, model: ir.Model, seed: int) -> list[dict[str, np.ndarray]]:
    """One calibration sample and two, where a file of them lies beside the model; else random numbers."""
    beside = Path(name).with_name("calib.npz")
    random = random_feeds(model, seed)
    if not beside.is_file():
        return random
    with np.load(beside) as stored:
        for count, feed in enumerate(random, start=1):
            for spec in graph.signature(model).inputs:
                if spec.name in stored.files and spec.shape is not None:
                    samples, rank = stored[spec.name], len(spec.shape)
                    fixed = spec.shape[0] if rank else 0
                    size = fixed if isinstance(fixed, int) and fixed > 0 else count
                    feed[spec.name] = samples[0] if samples.ndim > rank else samples[:size] if rank else samples
    return random


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    totals: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    with closing(WorkerRunner()) as runner:
        for name, model in _stored(asked.models) if asked.models else generated(asked.count, asked.seed):
            totals["models"] += 1
            copy = serialize.from_bytes(serialize.to_bytes(model))
            feeds = feeds_for(name, model, asked.seed)
            try:
                blocks, gap = hold_blocks(copy, runner, feeds, asked.seed)
                held = hold(model, runner, feeds, asked.share, asked.seed)
            except (ModeloptError, ValueError, AssertionError) as error:
                totals["broken"] += 1
                print(f"{name}: BROKEN: {error!r} {getattr(error, 'note', '')}", flush=True)
                continue
            wrong = not max(held.error, gap) <= _TOLERANCE
            totals.update(
                groups=held.groups, heads=held.heads, channels=held.channels, removed=held.removed, blocks=blocks
            )
            totals.update(mismatches=wrong, without_groups=not held.groups, not_moved=held.moved < _TOLERANCE)
            refused.update(held.refused)
            if wrong or asked.models:
                print(f"{name}: {'MISMATCH ' if wrong else ''}{held}; {blocks} blocks, error {gap:.1e}", flush=True)
    print("reasons to stay:")
    for why, count in refused.most_common(20):
        print(f"  {count:6,}  {why}")
    keys = (
        "models",
        "without_groups",
        "not_moved",
        "groups",
        "heads",
        "channels",
        "removed",
        "blocks",
        "broken",
        "mismatches",
    )
    print(", ".join(f"{totals[key]:,} {key.replace('_', ' ')}" for key in keys))
    return totals["broken"] + totals["mismatches"] > 0


if __name__ == "__main__":
    sys.exit(main())
