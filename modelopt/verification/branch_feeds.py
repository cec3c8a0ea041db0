"""Adds feeds that execute the branches of If and the bodies of Loop and Scan that no other feed executes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt.core.errors import Refused
from modelopt.runtime.worker import Worker
from modelopt.verification.executed import Regions
from modelopt.verification.feed_maker import Maker
from modelopt.verification.feeds import Answers, Feed, Shape, Values

MAX_FOR_BRANCHES = 8
"""How many feeds are added at most to reach branches that no other feed reaches."""

_FACTORS = (1.0, -1.0, 10.0, -10.0, 100.0, -100.0, 1000.0, -1000.0, 1.0, 1.0, 1.0, 1.0)
_FILLS = (1.0, -1.0, 10.0, -10.0, 1000.0, -1000.0)
_LENGTHS_FOR_BRANCHES = (1, 2, 4, 16, 33, 65, 130)


def reach_regions(
    answers: Answers, maker: Maker, worker: Worker, load: Callable[[], ir.Model], scratch: Path
) -> tuple[str, ...]:
    """Add feeds that execute bodies which no other feed executes; returns the bodies that none executes."""
    regions = Regions(load(), scratch / "regions.onnx", worker)
    wanted = set(regions.names.values())
    try:
        missing = wanted.difference(*regions.executed(answers.feeds))
        more = Answers(answers.session, deadline=answers.deadline, clock=answers.clock)
        if missing:
            _vary(more, maker, answers.feeds)
            for feed, outputs, reached in zip(more.feeds, more.outputs, regions.executed(more.feeds), strict=True):
                if missing & reached and len(answers.feeds) < len(more.feeds) + MAX_FOR_BRANCHES:
                    answers.feeds.append(feed)
                    answers.outputs.append(outputs)
                    missing -= reached
    except Refused as refusal:  # the model does not run with the profiler, or with unoptimized kernels
        return (f"unknown which branches ran ({refusal.note or refusal.fact})",)
    finally:
        regions.close()
    return tuple(sorted(missing))


def _vary(more: Answers, maker: Maker, known: Sequence[Feed]) -> None:
    """Try feeds of other scales, signs and sizes, and such where a whole tensor holds one number."""
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
