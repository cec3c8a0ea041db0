"""Chooses the feeds of a verification: the user's data first, then constructed ones, each tried on the original."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, ModeloptError, Refused
from modelopt.core.signature import FIRST, Signature, TensorSpec, is_free, symbol_of, symbols_of
from modelopt.data.synthetic import DEFAULT_FREE_DIM
from modelopt.measure.stability import MORE_REPEATS, RANDOM_OPERATORS, REPEATS, blanked, unstable
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session
from modelopt.verification.executed import Regions, has_regions
from modelopt.verification.feed_plan import HEAVY_BYTES, plan
from modelopt.verification.feeds import Feed, Maker, Shape, Values
from modelopt.verification.fitting import LIKELY_ATTEMPTS, Fit, Needs, attempts, with_names
from modelopt.verification.input_uses import InputUse

MAX_FOR_BRANCHES = 8
"""How many feeds are added to reach branches that others do not."""

PATIENCE_SECONDS = 60.0
"""After so long no further feeds are constructed; the report says so."""

_FACTORS = (1.0, -1.0, 10.0, -10.0, 100.0, -100.0, 1000.0, -1000.0, 1.0, 1.0, 1.0, 1.0)
_FILLS = (1.0, -1.0, 10.0, -10.0, 1000.0, -1000.0)
_LENGTHS_FOR_BRANCHES = (1, 2, 4, 16, 33, 65, 130)


PATIENCE_TO_START_SECONDS = 20.0
"""After so long without a feed that the original answers none is looked for any more."""

MAX_VALUES = 2**25
"""Larger feeds are not tried, unless nothing smaller is there."""

GIVE_DATA = "give it real ones with --eval DATA, or write --no-verify --no-bench"


class NothingRuns(InputError):
    """A model runs on none of the inputs that were made for it.

    Args:
        kind: What they are.
        why: What onnxruntime says of the first of them.
        hint: What helps.
        feed: How to give it an input that it runs on.
    """

    def __init__(self, kind: str, why: str | None, *, hint: str, feed: str) -> None:
        super().__init__(f"the model does not run on {kind} inputs", note=why, hint=hint)
        self.feed = feed


def nothing_runs(kind: str, why: str | None, signature: Signature, *, hint: str) -> ModeloptError:
    """The error where a model runs on none of the inputs that were made for it.

    Args:
        kind: What they are.
        why: What onnxruntime says of the first of them.
        signature: The model's.
        hint: What helps, unless the signature itself is at fault.
    """
    if why and "allocate memory" in why:
        return Refused("the model needs more memory than this machine has", note=why)
    empty = next((spec for spec in signature.inputs if 0 in (spec.shape or ())), None)
    if empty is not None:
        fault = f"the model declares {empty}, which holds no element: export it with free dimensions in place of 0"
        return NothingRuns(kind, why, hint=fault, feed=fault)
    example = give_one(signature)
    return NothingRuns(kind, why, hint=f"{hint}; DATA may be {example}", feed=f"--eval {example}")


def give_one(signature: Signature) -> str:
    """How to write a feed that a model like this runs on."""
    arrays = ", ".join(f"{spec.name!r}: {_example(spec)}" for spec in signature.inputs)
    asked = "; ".join(map(str, signature.inputs))
    written = f"np.savez('feed.npz', **{{{arrays}}})"
    return f"feed.npz, written with numpy: {written}, with real values and sizes ({asked})"


def _example(spec: TensorSpec) -> str:
    """An array of an input's dtype and shape as numpy text; free dimensions by name, as far as they have one."""
    dims = [
        "1" if not axis and is_free(dim) else str(DEFAULT_FREE_DIM if is_free(dim) else dim)
        for axis, dim in enumerate(spec.shape or ())
    ]
    shape = f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"
    return f"np.zeros({shape}, {'str' if spec.dtype == 'string' else repr(spec.dtype)})"


@dataclass(frozen=True)
class Original:
    """What is known of the original before passes change it.

    Attributes:
        path: Its file.
        signature: What it takes and gives.
        needs: What its graph asks of its inputs.
        is_heavy: Whether a run takes long.
        has_regions: Whether a run may leave out a part of it.
        is_random: Whether it holds operators that may answer differently each time.
    """

    path: Path
    signature: Signature
    needs: Needs
    is_heavy: bool
    has_regions: bool
    is_random: bool = False

    @staticmethod
    def of(model: ir.Model, path: Path, signature: Signature) -> Original:
        """Read it from the model that `path` holds."""
        is_random = any(map(_may_draw, graph.all_nodes(model)))
        is_heavy = graph.weight_bytes(model) > HEAVY_BYTES
        return Original(path, signature, Needs.of(model), is_heavy, has_regions(model), is_random)


def _may_draw(node: ir.Node) -> bool:
    """Whether a node may answer differently each time; Dropout does where it is told that it trains."""
    return node.op_type in RANDOM_OPERATORS and (node.op_type != "Dropout" or len(node.inputs) > 2)


@dataclass(frozen=True)
class Prepared:
    """Feeds and what the original answers to them.

    Attributes:
        feeds: The user's first.
        outputs: The original's outputs for each.
        names: What each of the outputs is called.
        whole: For each of them the position of the original's output that it is, or is a part of.
        not_executed: Parts of the original that no feed executes, in words.
        unstable: Positions of outputs that differ between two runs on the same inputs; `outputs` has no elements there.
    """

    feeds: tuple[Feed, ...]
    outputs: tuple[list[np.ndarray], ...]
    names: tuple[str, ...]
    whole: tuple[int, ...]
    not_executed: tuple[str, ...] = ()
    unstable: frozenset[int] = frozenset()

    @property
    def real(self) -> int:
        """How many feeds are the user's data."""
        return sum(feed.is_real for feed in self.feeds)


@dataclass
class _Answers:
    """Feeds that the original answers, in the order that they were tried."""

    session: Session
    feeds: list[Feed] = field(default_factory=list)
    outputs: list[list[np.ndarray]] = field(default_factory=list)
    why_not: str | None = None

    def take(self, feed: Feed) -> bool:
        """Run the original; a feed that it refuses is left out."""
        try:
            outputs = self.session.run(feed.arrays)
        except Refused as refusal:
            self.why_not = self.why_not or refusal.note
            return False
        self.feeds.append(feed)
        self.outputs.append(outputs)
        return True


def prepare(
    original: Original,
    real: Sequence[dict[str, np.ndarray]],
    worker: Worker,
    load: Callable[[], ir.Model],
    scratch: Path,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> Prepared:
    """Feeds that reach as much of the original as can be reached, or as `PATIENCE_SECONDS` allow.

    Args:
        original: The model.
        real: The user's data; what the original answers to them decides nothing.
        worker: Runs it.
        load: Gives the model anew.
        scratch: A directory.
        seed: Of constructed feeds.
        clock: Gives seconds.

    Raises:
        InputError: The original runs on none of the feeds.
        Refused: onnxruntime does not load the original, does not run it on the user's data, or lacks memory for it.
    """
    answers = _Answers(worker.keep(original.path, SessionSpec(spin=False), what="original"))
    for arrays in real:
        answers.feeds.append(Feed(arrays))
        answers.outputs.append(answers.session.run(arrays))
    if (pair := _stacked(real[:2], original.signature)) is not None:
        answers.take(Feed(pair))
    maker = Maker(with_names(original.signature), original.needs.uses, seed)
    left_out = 0
    try:
        left_out = _construct(answers, maker, original, real, clock)
    except (InputError, Refused) as error:  # inputs of strings, or of unknown rank
        answers.why_not = error.fact
    if not answers.feeds:
        raise nothing_runs("constructed", answers.why_not, original.signature, hint=GIVE_DATA)
    missed: tuple[str, ...] = ()
    if left_out:
        missed = (f"{left_out} more constructed feeds, because runs of this model take long",)
    elif original.has_regions:
        missed = _reach_regions(answers, maker, worker, load, scratch)
    beyond = (*_sizes_above(answers.feeds, original.signature), *_trips_above(answers.feeds, original.needs.uses))
    info = answers.session.info
    names = tuple(output.name for output in info.outputs)
    moving = _unstable(answers, MORE_REPEATS if original.is_random else REPEATS)
    outputs = tuple(blanked(each, moving) for each in answers.outputs)
    return Prepared(tuple(answers.feeds), outputs, names, info.whole, (*missed, *beyond), moving)


def _unstable(answers: _Answers, repeats: int) -> frozenset[int]:
    """Positions of outputs that differ between two runs on the first feed."""
    feed = answers.feeds[0].arrays
    return unstable(lambda: answers.session.run(feed), answers.outputs[0], repeats)


def _construct(
    answers: _Answers,
    maker: Maker,
    original: Original,
    real: Sequence[dict[str, np.ndarray]],
    clock: Callable[[], float],
) -> int:
    """Take the constructed feeds that the original answers; returns how many were left out for want of time."""
    started = clock()
    found = _first(answers, maker, original.needs, real, lambda: clock() - started > PATIENCE_TO_START_SECONDS)
    if found is None:
        return 0
    base, maker = found
    free = replace(maker, fit=replace(maker.fit, turn=None))
    makers = (maker,) if maker == free else (free, maker)
    planned = list(plan(maker, base, heavy=original.is_heavy))
    for number, (shapes, values) in enumerate(planned, start=1):
        if clock() - started > PATIENCE_SECONDS:
            return len(planned) - number + 1
        for shape, each in itertools.product(shapes, makers):
            if answers.take(each.make(number, shape, values)):
                break
    return 0


def _first(
    answers: _Answers,
    maker: Maker,
    needs: Needs,
    real: Sequence[dict[str, np.ndarray]],
    is_late: Callable[[], bool],
) -> tuple[Shape, Maker] | None:
    """A shape that the original runs on, and how inputs are drawn for it; its feed is taken."""
    for number, (shape, fit) in enumerate(_shapes_to_try(maker.signature, needs, real)):
        if number >= LIKELY_ATTEMPTS and is_late():
            break
        each = replace(maker, fit=fit)
        if number and each.count_values(shape) > MAX_VALUES:
            continue
        if answers.take(each.make(0, shape, (Values.ORDINARY,))):
            return shape, each
    return None


def _shapes_to_try(
    signature: Signature, needs: Needs, real: Sequence[dict[str, np.ndarray]]
) -> Iterator[tuple[Shape, Fit]]:
    """Small sizes first: they are quick, and the user's data have the others."""
    trying = attempts(signature, needs)
    likely = [(Shape(1, each.length), each.fit) for each in itertools.islice(trying, LIKELY_ATTEMPTS)]
    yield from likely
    if real:
        sizes = _sizes_of(real[0], signature.inputs)
        yield Shape(1, max(sizes.values(), default=1), sizes), likely[0][1]
    yield from ((Shape(1, each.length), each.fit) for each in trying)


def _sizes_of(feed: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The sizes that a feed has for the free dimensions that have names, but for those of first axes."""
    batch = symbols_of(inputs, FIRST)
    return {
        symbol: size
        for spec in inputs
        for dim, size in zip(spec.shape or (), feed[spec.name].shape, strict=False)
        if (symbol := symbol_of(dim)) is not None and symbol not in batch
    }


def _stacked(feeds: Sequence[dict[str, np.ndarray]], signature: Signature) -> dict[str, np.ndarray] | None:
    """Two feeds joined along the first axis of every input, None where one is fixed or sizes differ."""
    if len(feeds) < 2 or not all(spec.shape and is_free(spec.shape[0]) for spec in signature.inputs):
        return None
    if any(len({feed[name].shape[1:] for feed in feeds}) > 1 for name in feeds[0]):
        return None
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


# Branches


def _reach_regions(
    answers: _Answers, maker: Maker, worker: Worker, load: Callable[[], ir.Model], scratch: Path
) -> tuple[str, ...]:
    """Add feeds that execute what others do not; returns what none executes."""
    regions = Regions(load(), scratch / "regions.onnx", worker)
    wanted = set(regions.names.values())
    try:
        missing = wanted.difference(*regions.executed(answers.feeds))
        more = _Answers(answers.session)
        if missing:
            _vary(more, maker, answers.feeds)
            for feed, outputs, reached in zip(more.feeds, more.outputs, regions.executed(more.feeds), strict=True):
                if missing & reached and len(answers.feeds) < len(more.feeds) + MAX_FOR_BRANCHES:
                    answers.feeds.append(feed)
                    answers.outputs.append(outputs)
                    missing -= reached
    except Refused as refusal:  # the profiler, or unoptimized kernels, do not take the model
        return (f"unknown which branches ran ({refusal.note or refusal.fact})",)
    finally:
        regions.close()
    return tuple(sorted(missing))


def _vary(more: _Answers, maker: Maker, known: Sequence[Feed]) -> None:
    """Feeds unlike the others in scale, sign and size, and in what integers, booleans and whole tensors say."""
    ordinary = next((feed for feed in known if feed.values == (Values.ORDINARY,)), None)
    if ordinary is None:
        return
    length = next((size for name, size in ordinary.sizes.items() if name), 1)
    shape = Shape(ordinary.sizes.get("", 1), length)
    kinds = (Values.NEAR_CONSTANTS, Values.ORDINARY, Values.LARGE, Values.ZEROS)
    for number, factor in enumerate(_FACTORS):
        feed = maker.make(100 + number, shape, (kinds[number % len(kinds)],))
        more.take(_with_floats(feed, scale=factor))
    for number, constant in enumerate(dict.fromkeys((*maker.constants(), *_FILLS))):
        feed = maker.make(200 + number, shape, (Values.ORDINARY,))
        more.take(_with_floats(feed, scale=0.0, offset=constant))
    for number, each in enumerate(_LENGTHS_FOR_BRANCHES if maker.free_lengths() else ()):
        more.take(maker.make(300 + number, replace(shape, length=each), (Values.ORDINARY,)))


def _with_floats(feed: Feed, *, scale: float, offset: float = 0.0) -> Feed:
    """The feed with its floats multiplied and shifted."""
    changed = {
        name: np.asarray(array * scale + offset, array.dtype) if array.dtype.kind == "f" else array
        for name, array in feed.arrays.items()
    }
    return Feed(changed, feed.values, feed.sizes)


# What no feed has


def _sizes_above(feeds: Sequence[Feed], signature: Signature) -> Iterator[str]:
    """The sizes of free dimensions that feeds end at."""
    batches: list[int] = []
    lengths: dict[str, list[int]] = {}
    firsts = symbols_of(signature.inputs, FIRST)
    for feed in feeds:
        for spec in signature.inputs:
            for axis, (dim, size) in enumerate(zip(spec.shape or (), feed.arrays[spec.name].shape, strict=False)):
                if not is_free(dim):
                    continue
                if axis == 0 or symbol_of(dim) in firsts:
                    batches.append(size)
                else:
                    lengths.setdefault(symbol_of(dim) or "?", []).append(size)
    if batches:
        yield f"batch sizes above {max(batches)}"
    for name, sizes in lengths.items():
        what = "free dimensions" if name == "?" else f"sizes of '{name}'"
        yield f"{what} above {max(sizes)}"


def _trips_above(feeds: Sequence[Feed], uses: Mapping[str, InputUse]) -> Iterator[str]:
    """The trip counts that feeds end at."""
    for name, use in uses.items():
        counts = [int(feed.arrays[name].max()) for feed in feeds if use.is_count and feed.arrays[name].size]
        if counts:
            yield f"more than {max(counts)} trips by '{name}'"
