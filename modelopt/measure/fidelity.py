"""How close the candidate's outputs are to the reference's, without labels.

An output without elements in a sample is not compared there, and equal non-finite values (both NaN, both the same
infinity) are left out. A metric with nothing left to compare has no value. A value that is non-finite in one model only
counts as 0 there, or as 1 where the other value is 0, and is reported. An output of another shape counts as all zeros.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from modelopt.measure.metric import (
    NOTHING_COMPARED,
    Metric,
    Outputs,
    Score,
    Tally,
    Unfit,
    aligned,
    clipped,
    count_nonfinite_mismatches,
    is_float,
)
from modelopt.measure.stats import Interval, Units, mean_interval

EXACT = "exact"
"""The note of a figure that found no difference at all."""


class Fidelity(Metric):
    """Base of the metrics without labels: it counts the samples that were compared and those that could not be.

    Args:
        inferred: The metric was not asked for by name: samples that it does not suit are passed over. Otherwise they
            are an error.
    """

    def __init__(self, *, inferred: bool = False) -> None:
        self._inferred = inferred
        self._n = 0
        self._fitting = 0
        self._compared = 0
        self._nonfinite = 0
        self._reshaped = 0
        self._tally = Tally()

    def update(self, reference: Outputs, candidate: Outputs, label: np.ndarray | None) -> None:
        """See `Metric.update`; the label is not used.

        Raises:
            Unfit: The outputs are of no such kind, and the metric was asked for by name.
        """
        self._n += 1
        self._nonfinite += count_nonfinite_mismatches(reference, candidate)
        self._reshaped += any(a.shape != b.shape for a, b in zip(reference, candidate, strict=True))
        try:
            compared = self.compare(reference, candidate)
        except Unfit:
            if not self._inferred:
                raise
            return
        self._fitting += 1
        self._compared += compared

    @property
    def suits(self) -> bool:
        """Whether any sample so far had outputs of the kind that the metric compares, with or without elements."""
        return self._fitting > 0

    @abstractmethod
    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """Take in one sample's outputs; False where there was nothing to compare.

        Raises:
            Unfit: No output is of the kind that the metric compares.
        """

    def made(
        self,
        value: float | None,
        interval: Interval | None = None,
        *,
        n: int | None = None,
        note: str | None = None,
    ) -> Score:
        """A score with the notes on shapes and non-finite values."""
        notes = [note] if note else []
        if self._reshaped:
            notes.append(f"{self._reshaped} of {self._n} samples give outputs of another shape")
        if self._nonfinite:
            notes.append(f"{self._nonfinite:,} values are NaN or infinite in one of the two only")
        n = self._compared if n is None else n
        return self.scored(value, n, interval, nonfinite=self._nonfinite, note="; ".join(notes))

    def nothing(self) -> Score | None:
        """The score where nothing was compared, else None."""
        return None if self._compared else self.made(None, n=0, note=NOTHING_COMPARED)


class Cosine(Fidelity):
    """The cosine between the outputs, of the least similar output of each sample, averaged over samples."""

    name = "cosine"
    unit = "cosine"
    higher_is_better = True

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`."""
        found = [_cosine(pair) for pair in _pairs(self.name, reference, candidate)]
        if found:
            self._tally.add(np.array([min(found)]), together=False)
        return bool(found)

    def score(self) -> Score:
        """See `Metric.score`."""
        return self.nothing() or self.made(self._tally.units.mean, clipped(self._tally.interval(), -1.0, 1.0))


class Sqnr(Fidelity):
    """10·log10(Σ reference² / Σ (reference - candidate)²) over all samples, of the worst output, in dB."""

    name = "sqnr"
    unit = "dB"
    higher_is_better = True

    def __init__(self, *, inferred: bool = False) -> None:
        super().__init__(inferred=inferred)
        self._signal: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self._noise: dict[int, array[float]] = defaultdict(lambda: array("d"))

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`."""
        pairs = list(_pairs(self.name, reference, candidate))
        for pair in pairs:
            self._signal[pair.position].append(float(pair.a @ pair.a))
            self._noise[pair.position].append(float((pair.a - pair.b) @ (pair.a - pair.b)))
        return bool(pairs)

    def score(self) -> Score:
        """See `Metric.score`; no value where the outputs are equal, or where the reference is zero everywhere."""
        noise = {position: sum(values) for position, values in self._noise.items()}
        if not any(noise.values()):
            return self.nothing() or self.made(None, note=EXACT)
        signal = {position: sum(values) for position, values in self._signal.items()}
        worst = max(noise, key=lambda position: noise[position] / signal[position] if signal[position] else math.inf)
        if not signal[worst]:
            return self.made(None, note="an output of the reference is zero everywhere")
        units = Units(np.array(self._noise[worst]), np.array(self._signal[worst]))
        # The interval is that of noise / signal, with its ends exchanged; where its lower end is 0, dB have no bound.
        interval = mean_interval(units)
        low = None if interval is None else _decibels(interval.high)
        high = None if interval is None or interval.low <= 0 else _decibels(interval.low)
        return msgspec.structs.replace(self.made(_decibels(units.mean)), low=low, high=high)


class MaxAbsError(Fidelity):
    """The largest absolute difference of any output of any sample."""

    name = "max-abs-error"
    unit = ""
    higher_is_better = False
    _worst = 0.0

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`."""
        pairs = list(_pairs(self.name, reference, candidate))
        self._worst = max(self._worst, *(float(np.max(np.abs(pair.a - pair.b))) for pair in pairs), 0.0)
        return bool(pairs)

    def score(self) -> Score:
        """See `Metric.score`; a maximum has no interval."""
        return self.nothing() or self.made(self._worst, note=None if self._worst else EXACT)


@dataclass(frozen=True)
class _Pair:
    """The values of one output in one sample.

    Attributes:
        position: Of the output.
        a: The reference's values, float64[n], finite, n > 0.
        b: The candidate's, likewise.
    """

    position: int
    a: np.ndarray
    b: np.ndarray


def _pairs(name: str, reference: Outputs, candidate: Outputs) -> Iterator[_Pair]:
    """Each floating-point output that has something to compare."""
    if not any(is_float(out) for out in reference):
        raise Unfit(f"{name} needs an output of floating-point numbers", hint="--metric agreement compares others")
    for position, (before, after) in enumerate(zip(reference, candidate, strict=True)):
        if not is_float(before):
            continue
        pair = aligned(before, after)
        if pair is not None:
            yield _Pair(position, *map(np.ravel, pair))


def _cosine(pair: _Pair) -> float:
    """1 for two zero vectors, 0 when only one of them is zero."""
    a, b = pair.a, pair.b
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if lengths == 0:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return max(-1.0, min(1.0, float(a @ b) / lengths))


def _decibels(noise_to_signal: float) -> float:
    return -10 * math.log10(noise_to_signal)
