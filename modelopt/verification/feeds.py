"""What a feed of the verification is, and what counts as rounding on it.

A wrong rewrite may give right outputs for random numbers of one size. It may be wrong only for the third sample of a
batch, beyond a bound, at one row of a table, or for NaN. Each kind of values here finds one such mistake.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from modelopt.core.errors import Refused
from modelopt.measure.tolerance import Nonfinite
from modelopt.runtime.worker_session import Session

UNUSUAL_SLACK = 10.0
"""See `Feed.slack`."""


class Values(Enum):
    """The kind of values in a feed, or in one row of it."""

    ORDINARY = "standard normal"
    SCALED_UP = "standard normal times 10"
    SCALED_DOWN = "standard normal times 0.1"
    ZEROS = "zeros"
    LARGE = "large numbers of both signs"
    NEAR_CONSTANTS = "numbers near the constants of the graph"
    NAN = "NaN among others"
    INFINITE = "infinities among others"


EXTREME = frozenset({Values.LARGE, Values.NAN, Values.INFINITE})
"""Values for which the runtime's own kernels may give different outputs."""

NONFINITE = frozenset({Values.NAN, Values.INFINITE})


@dataclass(frozen=True)
class Feed:
    """One call of the model.

    Attributes:
        arrays: By input.
        values: The kinds of its values, one for each row or one for all; empty for the user's data.
        sizes: Its sizes of the free dimensions, by name (``""``: the batch).
    """

    arrays: dict[str, np.ndarray]
    values: tuple[Values, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_real(self) -> bool:
        """Whether it comes from the user's data."""
        return not self.values

    def __str__(self) -> str:
        if self.is_real:
            return "the user's data"
        sizes = [f"{name or 'batch'}={size}" for name, size in self.sizes.items()]
        return ", ".join(("; ".join(value.value for value in self.values), *sizes))

    @property
    def is_extreme(self) -> bool:
        """Whether some of its values are `EXTREME`."""
        return not EXTREME.isdisjoint(self.values)

    @property
    def is_nonfinite(self) -> bool:
        """Whether some of its values are NaN or infinite."""
        return not NONFINITE.isdisjoint(self.values)

    @property
    def slack(self) -> float:
        """The factor of the tolerance on this feed: at unusual scales kernels lose digits.

        A mistake that only such a feed shows is larger by much more than this factor.
        """
        return 1.0 if self.is_real or set(self.values) == {Values.ORDINARY} else UNUSUAL_SLACK

    @property
    def nonfinite(self) -> Nonfinite:
        """Which NaN and infinities in the outputs must be equal.

        NaN in an input gives NaN in any order of operations. The difference of two infinities, and sums that overflow,
        give NaN in one order of operations and not in another: where the original gives NaN any value is accepted then.
        """
        if not {Values.INFINITE, Values.LARGE}.isdisjoint(self.values):
            return Nonfinite.FINITE_WHERE_NOT_NAN
        return Nonfinite.FINITE if Values.NAN in self.values else Nonfinite.EQUAL


@dataclass(frozen=True)
class Shape:
    """Sizes of free dimensions.

    Attributes:
        batch: The size of the batch.
        length: The size of all others.
        lengths: Sizes of single dimensions, by name, in place of `length`.
    """

    batch: int
    length: int
    lengths: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Answers:
    """The feeds that the original runs on, in the order in which they were tried, and its outputs.

    Attributes:
        session: The original.
        feeds: The feeds.
        outputs: What it gives for each.
        why_not: What onnxruntime said of the first feed that it does not run on.
        deadline: When runs are stopped, by `clock`.
        clock: Gives seconds.
        output_bytes: Of all outputs that `take` kept.
        feed_bytes: Of all feeds that it kept.
        feed_arrays: How many arrays these hold.
    """

    session: Session
    feeds: list[Feed] = field(default_factory=list)
    outputs: list[list[np.ndarray]] = field(default_factory=list)
    why_not: str | None = None
    deadline: float = math.inf
    clock: Callable[[], float] = time.monotonic
    output_bytes: int = 0
    feed_bytes: int = 0
    feed_arrays: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the time for all runs is over."""
        return self.clock() >= self.deadline

    def take(self, feed: Feed) -> bool:
        """Run the original; a feed that it does not run on is left out."""
        left = None if self.deadline == math.inf else self.deadline - self.clock()
        try:
            outputs = self.session.run(feed.arrays, seconds=left)
        except Refused as refusal:
            self.why_not = self.why_not or refusal.note
            return False
        self.feeds.append(feed)
        self.outputs.append(outputs)
        self.output_bytes += sum(output.nbytes for output in outputs)
        self.feed_bytes += sum(array.nbytes for array in feed.arrays.values())
        self.feed_arrays += len(feed.arrays)
        return True
