"""The base of metrics: samples go in one by one, and a score with its interval comes out.

Memory grows by two numbers for each unit of the score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence

import msgspec
import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.stats import (
    Interval,
    Units,
    mean_interval,
    proportion_interval,
)

Outputs = Sequence[np.ndarray]

NOTHING_COMPARED = "no output element was compared"
"""The note of a score for which no sample had anything to compare: no gate passes on it."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A score, the number of items that it is over, and its 95 % interval.

    Attributes:
        name: The metric's name, as ``--metric`` takes it.
        value: None where the score has no finite value; `note` says why.
        n: The number of items.
        low: Lower end of the interval; None where there is no interval.
        high: Upper end; None where there is none, or where it has no bound.
        unit: ``share``, ``dB`` …; empty where the metric has none.
        higher_is_better: Whether a higher score is better.
        nonfinite: Values of the candidate's outputs that are NaN or infinite where the reference's are not, or the
            reverse.
        note: One clause that a reader needs, e.g. ``"exact"``.
    """

    name: str
    value: float | None
    n: int
    low: float | None
    high: float | None
    unit: str
    higher_is_better: bool
    nonfinite: int = 0
    note: str | None = None


class Scorer(ABC):
    """What ends in a score: the metrics over all outputs, and the measures of one output.

    Attributes:
        name: As ``--metric`` takes it.
        unit: The unit of the score.
        higher_is_better: Whether a higher score is better.
    """

    name: str
    unit: str
    higher_is_better: bool

    @abstractmethod
    def score(self) -> Score:
        """The candidate's score over all samples so far; without a value where these held nothing to score."""

    def scored(
        self, value: float | None, n: int, interval: Interval | None = None, *, nonfinite: int = 0, note: str = ""
    ) -> Score:
        """A score; without a value and a note it says that nothing was compared."""
        low, high = (None, None) if interval is None else (interval.low, interval.high)
        told = note or (NOTHING_COMPARED if value is None else None)
        return Score(
            name=self.name,
            value=value,
            n=n,
            low=low,
            high=high,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            nonfinite=nonfinite,
            note=told,
        )


class Metric(Scorer):
    """Base of the metrics over all outputs."""

    @abstractmethod
    def update(self, reference: Outputs, candidate: Outputs, label: np.ndarray | None) -> None:
        """Take in one sample.

        Args:
            reference: The original model's outputs.
            candidate: The other model's outputs for the same inputs, in the same order.
            label: The true answer for the sample; None where it is not known.

        Raises:
            InputError: The outputs or the label are not of a kind that the metric can score.
        """


class Unfit(InputError):
    """A sample's outputs or label are not of a kind that the metric scores."""


class Tally:
    """Collects scored items. An item is an independent unit of its own, or all items of a sample are one unit."""

    def __init__(self) -> None:
        self._sums = array("d")
        self._counts = array("d")

    def add(self, items: np.ndarray, *, together: bool) -> None:
        """Take in the items of one sample, float64[k]; `together` when they are one unit.

        A sample without items still adds a unit, so that two tallies of the same samples stay paired: see `TaskMetric`.
        """
        if together:
            self._sums.append(float(items.sum()))
            self._counts.append(items.size)
            return
        self._sums.extend(items.tolist())
        self._counts.extend([1.0] * items.size)

    def add_sums(self, total: float, count: float) -> None:
        """Take in one sample whose items are summed already."""
        self._sums.append(total)
        self._counts.append(count)

    @property
    def n(self) -> int:
        """Items so far."""
        return int(sum(self._counts))

    @property
    def units(self) -> Units:
        """What to resample."""
        return Units(np.array(self._sums, np.float64), np.array(self._counts, np.float64))

    def interval(self) -> Interval | None:
        """Wilson's for items that are right or wrong, else Student's; None where no item was taken in."""
        if not self.n:
            return None
        units = self.units
        if units.is_binary:
            return proportion_interval(float(units.sums.sum()), len(units.sums))
        return mean_interval(units)

    def share_interval(self) -> Interval | None:
        """The interval within 0 and 1."""
        return clipped(self.interval(), 0.0, 1.0)


def clipped(interval: Interval | None, low: float, high: float) -> Interval | None:
    """The interval within the bounds of the score itself."""
    return interval and Interval(low=max(low, interval.low), high=min(high, interval.high))


class Measure(Scorer):
    """Base of the measures of one output; `name` is what ``--metric OUTPUT=NAME`` takes. No labels are needed.

    The score is a share of equal answers, or an error relative to the size of the output. A contract bounds the share
    that is not equal, or the error.
    """

    unit = "share"
    higher_is_better = True

    @abstractmethod
    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take in one sample.

        Args:
            a: The reference's values, float64, with at least one element.
            b: The candidate's, of the same shape; both without NaN and infinity: see `aligned`.
        """

    def share(self, tally: Tally) -> Score:
        """The share of items that count as equal."""
        return self.scored(tally.units.mean if tally.n else None, tally.n, tally.share_interval())


def is_float(values: np.ndarray) -> bool:
    """Whether the array holds floating-point numbers, those that numpy itself lacks (bfloat16 …) included."""
    return values.dtype.kind == "f" or values.dtype.name.startswith(("bfloat", "float"))


def count_nonfinite_mismatches(reference: Outputs, candidate: Outputs) -> int:
    """Values that are non-finite in one model and not the same in the other, in outputs of equal shape."""
    return sum(
        int(np.sum(nonfinite_mismatch(before, after)))
        for before, after in zip(reference, candidate, strict=True)
        if is_float(before) and before.shape == after.shape
    )


def nonfinite_mismatch(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """bool[…]: where a value is not finite and its counterpart is not the same (NaN equals NaN here)."""
    same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    found: np.ndarray = ~(np.isfinite(reference) & np.isfinite(candidate)) & ~same
    return found


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Two outputs as finite float64 arrays of one shape; None where neither holds anything to compare.

    An output of another shape becomes zeros, or ones where the other holds only zeros. Values that are NaN, or the same
    infinity, in both become 0 in both. A value that is non-finite in one model only becomes 0 there, or 1 where the
    other value is 0, so that it counts as a difference.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        held = a if a.size else b
        against = np.zeros_like(held) if held.any() else np.ones_like(held)
        a, b = (held, against) if a.size else (against, held)
    compared = np.isfinite(a) | np.isfinite(b) | nonfinite_mismatch(a, b)
    if not compared.any():
        return None
    unlike = nonfinite_mismatch(a, b)
    a, b = (np.where(np.isfinite(values), values, 0.0) for values in (a, b))
    return a, np.where(unlike & (a == b), 1.0, b)


def is_blank(output: np.ndarray) -> bool:
    """Whether there is nothing in an output to compare: no element, or only NaN and infinity."""
    return not output.size or (is_float(output) and not np.isfinite(output).any())
