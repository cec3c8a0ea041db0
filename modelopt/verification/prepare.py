"""Chooses the feeds of a verification: the user's data first, then constructed feeds that the original runs on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, Refused
from modelopt.core.signature import FIRST, Signature, TensorSpec, is_free, symbol_of, symbols_of
from modelopt.measure.stability import MORE_REPEATS, RANDOM_OPERATORS, REPEATS, blanked, unstable
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.branch_feeds import reach_regions
from modelopt.verification.executed import has_regions
from modelopt.verification.feed_maker import Maker
from modelopt.verification.feed_plan import HEAVY_BYTES, plan
from modelopt.verification.feeds import Answers, Feed, Shape, Values
from modelopt.verification.fitting import LIKELY_ATTEMPTS, Fit, Needs, attempts, with_names
from modelopt.verification.input_uses import InputUse
from modelopt.verification.nothing_runs import GIVE_DATA, nothing_runs

PATIENCE_SECONDS = 60.0
"""After this time no further feeds are constructed; the report says so."""

PATIENCE_TO_START_SECONDS = 20.0
"""After this time without a feed that the original runs on, the search ends."""

RUN_SECONDS = 120.0
"""All runs on constructed feeds together end after this time: a run that takes longer is stopped and left out."""

MAX_OUTPUT_BYTES = 2**30
"""Once the outputs that are kept take more, no further feeds are constructed; the report says so."""

MAX_FEED_BYTES, MAX_FEED_ARRAYS = 2**28, 2**14
"""The same for the feeds: an array takes memory, and it takes time however small it is."""


@dataclass(frozen=True)
class Original:
    """The facts of the original that are read before passes change it.

    Attributes:
        path: Its file.
        signature: Its inputs and outputs.
        needs: What its graph requires of its inputs.
        is_heavy: Whether its weights are large, so that a run takes long.
        has_regions: Whether it has bodies that a run may leave out.
        is_random: Whether it holds random operators.
        endless: Why a run would not end; None where nothing says so.
    """

    path: Path
    signature: Signature
    needs: Needs
    is_heavy: bool
    has_regions: bool
    is_random: bool = False
    endless: str | None = None

    @staticmethod
    def of(model: ir.Model, path: Path, signature: Signature, needs: Needs, *, endless: str | None = None) -> Original:
        """The facts of the model in the file `path`."""
        is_random = any(map(_may_draw, graph.all_nodes(model)))
        is_heavy = graph.weight_bytes(model) > HEAVY_BYTES
        return Original(path, signature, needs, is_heavy, has_regions(model), is_random, endless)


def _may_draw(node: ir.Node) -> bool:
    """Whether a node may give other outputs each time; Dropout does with its training_mode input."""
    return node.op_type in RANDOM_OPERATORS and (node.op_type != "Dropout" or len(node.inputs) > 2)


@dataclass(frozen=True)
class Prepared:
    """Feeds and the outputs of the original for them.

    Attributes:
        feeds: The user's first.
        outputs: The original's outputs for each.
        names: The name of each of the outputs.
        whole: For each of them the position of the model's output that it is, or is a part of.
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


def prepare(
    original: Original,
    real: Sequence[dict[str, np.ndarray]],
    worker: Worker,
    load: Callable[[], ir.Model],
    scratch: Path,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> Prepared:
    """The feeds: they reach as much of the graph as possible within `PATIENCE_SECONDS`.

    Args:
        original: The model.
        real: The user's data; the original must run on it.
        worker: Runs the original.
        load: Gives the model in memory.
        scratch: A directory.
        seed: The seed of constructed feeds.
        clock: Gives seconds.

    Raises:
        InputError: The original runs on none of the feeds.
        Refused: onnxruntime does not load the original, does not run it on the user's data, or lacks memory for it.
    """
    answers = Answers(worker.keep(original.path, SessionSpec(spin=False), what="original"))
    for arrays in real:
        answers.feeds.append(Feed(arrays))
        answers.outputs.append(answers.session.run(arrays))
    if (pair := _stacked(real[:2], original.signature)) is not None:
        answers.take(Feed(pair))
    maker = Maker(with_names(original.signature), original.needs.uses, seed)
    left_out = 0
    try:
        if original.endless is None:
            left_out = _construct(answers, maker, original, real, clock)
        else:
            answers.why_not = original.endless
    except (InputError, Refused) as error:  # inputs of strings, or of unknown rank
        answers.why_not = error.fact
    if not answers.feeds:
        raise nothing_runs("constructed", answers.why_not, original.signature, hint=GIVE_DATA)
    missed: tuple[str, ...] = ()
    if left_out:
        missed = (f"{left_out} more constructed feeds, because runs of this model take long, or take or give much",)
    elif original.has_regions:
        missed = reach_regions(answers, maker, worker, load, scratch)
    beyond = (*_sizes_above(answers.feeds, original.signature), *_trips_above(answers.feeds, original.needs.uses))
    info = answers.session.info
    names = tuple(output.name for output in info.outputs)
    moving = _unstable(answers, MORE_REPEATS if original.is_random else REPEATS)
    outputs = tuple(blanked(each, moving) for each in answers.outputs)
    return Prepared(tuple(answers.feeds), outputs, names, info.whole, (*missed, *beyond), moving)


def _unstable(answers: Answers, repeats: int) -> frozenset[int]:
    """Positions of outputs that differ between two runs on the first feed."""
    feed = answers.feeds[0].arrays
    return unstable(lambda: answers.session.run(feed), answers.outputs[0], repeats)


def _construct(
    answers: Answers,
    maker: Maker,
    original: Original,
    real: Sequence[dict[str, np.ndarray]],
    clock: Callable[[], float],
) -> int:
    """Take the constructed feeds that the original answers; returns how many were left out because time ran out."""
    started = clock()
    answers.deadline = answers.clock() + RUN_SECONDS
    found = _first(answers, maker, original.needs, real, lambda: clock() - started > PATIENCE_TO_START_SECONDS)
    if found is None:
        return 0
    base, maker = found
    free = replace(maker, fit=replace(maker.fit, turn=None))
    makers = (maker,) if maker == free else (free, maker)
    planned = list(plan(maker, base, heavy=original.is_heavy))
    for number, (shapes, values) in enumerate(planned, start=1):
        if clock() - started > PATIENCE_SECONDS or _is_much(answers):
            return len(planned) - number + 1
        for shape, each in itertools.product(shapes, makers):
            too_large = original.needs.why_too_large(each.count_values(shape)) is not None
            if not too_large and answers.take(each.make(number, shape, values)):
                break
    return 0


def _is_much(answers: Answers) -> bool:
    is_large = answers.output_bytes > MAX_OUTPUT_BYTES or answers.feed_bytes > MAX_FEED_BYTES
    return is_large or answers.feed_arrays > MAX_FEED_ARRAYS


def _first(
    answers: Answers,
    maker: Maker,
    needs: Needs,
    real: Sequence[dict[str, np.ndarray]],
    is_late: Callable[[], bool],
) -> tuple[Shape, Maker] | None:
    """The first shape that the original runs on, and the maker of its feed, which is taken."""
    for number, (shape, fit) in enumerate(_shapes_to_try(maker.signature, needs, real)):
        if number >= LIKELY_ATTEMPTS and is_late():
            break
        each = replace(maker, fit=fit)
        if (too_large := needs.why_too_large(each.count_values(shape))) is not None:
            answers.why_not = answers.why_not or too_large
            continue
        if answers.take(each.make(0, shape, (Values.ORDINARY,))):
            return shape, each
        if answers.is_late:
            break
    return None


def _shapes_to_try(
    signature: Signature, needs: Needs, real: Sequence[dict[str, np.ndarray]]
) -> Iterator[tuple[Shape, Fit]]:
    """Small sizes first, because they run quickly; then those of the user's data."""
    trying = attempts(signature, needs)
    likely = [(Shape(1, each.length), each.fit) for each in itertools.islice(trying, LIKELY_ATTEMPTS)]
    yield from likely
    if real:
        sizes = _sizes_of(real[0], signature.inputs)
        yield Shape(1, max(sizes.values(), default=1), sizes), likely[0][1]
    yield from ((Shape(1, each.length), each.fit) for each in trying)


def _sizes_of(feed: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The sizes of a feed's free dimensions, by name, except for those of first axes."""
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


def _sizes_above(feeds: Sequence[Feed], signature: Signature) -> Iterator[str]:
    """The largest sizes of free dimensions in the feeds."""
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
    """The largest trip counts in the feeds."""
    for name, use in uses.items():
        counts = [int(feed.arrays[name].max()) for feed in feeds if use.is_count and feed.arrays[name].size]
        if counts:
            yield f"more than {max(counts)} trips by '{name}'"
