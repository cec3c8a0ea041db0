"""How close the candidate's outputs are to the reference's, without labels.

Equal non-finite values (both NaN, both the same infinity) are left out. A value that is non-finite on one side only
counts as zero there and is reported as `nonfinite`; an output of another shape counts as all zeros.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from array import array
from collections import defaultdict
from collections.abc import Iterator

import msgspec
import numpy as np

from modelopt.errors import InputError
from modelopt.measure.metric import (
    Metric,
    Outputs,
    Score,
    Tally,
    clipped,
    count_nonfinite_mismatches,
    is_float,
)
from modelopt.measure.stats import Interval, Units, mean_interval


class Fidelity(Metric):
    """What the metrics below share: they count what they cannot compare."""

    def __init__(self) -> None:
        self._n = 0
        self._nonfinite = 0
        self._reshaped = 0

    def update(self, reference: Outputs, candidate: Outputs, label: np.ndarray | None) -> None:
        """See `Metric.update`; the label is not used."""
        self._n += 1
        self._nonfinite += count_nonfinite_mismatches(reference, candidate)
        self._reshaped += any(a.shape != b.shape for a, b in zip(reference, candidate, strict=True))
        self.compare(reference, candidate)

    @abstractmethod
    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """Take in one sample's outputs."""

    def made(
        self,
        value: float | None,
        interval: Interval | None = None,
        *,
        n: int | None = None,
        note: str | None = None,
    ) -> Score:
        """A score with what all of them report."""
        notes = [note] if note else []
        if self._reshaped:
            notes.append(f"{self._reshaped} of {self._n} samples give outputs of another shape")
        return Score(
            name=self.name,
            value=value,
            n=self._n if n is None else n,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            nonfinite=self._nonfinite,
            note="; ".join(notes) or None,
        )


class Cosine(Fidelity):
    """The cosine between the outputs, of the least similar output of each sample, averaged over samples."""

    name = "cosine"
    unit = "cosine"
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally()

    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """See `Fidelity.compare`."""
        worst = min(_cosine(a, b) for _, a, b in _pairs(self.name, reference, candidate))
        self._tally.add(np.array([worst]), together=False)

    def score(self) -> Score:
        """See `Metric.score`."""
        return self.made(self._tally.units.mean, clipped(self._tally.interval(), -1.0, 1.0))


class Sqnr(Fidelity):
    """10·log10(Σ reference² / Σ (reference - candidate)²) over all samples, of the worst output, in dB."""

    name = "sqnr"
    unit = "dB"
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self._signal: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self._noise: dict[int, array[float]] = defaultdict(lambda: array("d"))

    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """See `Fidelity.compare`."""
        for position, a, b in _pairs(self.name, reference, candidate):
            self._signal[position].append(float(a @ a))
            self._noise[position].append(float((a - b) @ (a - b)))

    def score(self) -> Score:
        """See `Metric.score`; no value where the outputs are equal, or where the reference is zero everywhere."""
        noise = {position: sum(values) for position, values in self._noise.items()}
        if not any(noise.values()):
            return self.made(None, note="exact")
        signal = {position: sum(values) for position, values in self._signal.items()}
        worst = max(noise, key=lambda position: noise[position] / signal[position] if signal[position] else math.inf)
        if not signal[worst]:
            return self.made(None, note="an output of the reference is zero everywhere")
        units = Units(np.array(self._noise[worst]), np.array(self._signal[worst]))
        # The interval is that of noise / signal, turned round; no noise at its lower end is no bound in dB.
        interval = mean_interval(units)
        low = None if interval is None else _decibels(interval.high)
        high = None if interval is None or interval.low <= 0 else _decibels(interval.low)
        return msgspec.structs.replace(self.made(_decibels(units.mean)), low=low, high=high)


class MaxAbsError(Fidelity):
    """The largest absolute difference of any output of any sample."""

    name = "max-abs-error"
    unit = ""
    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self._worst = 0.0

    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """See `Fidelity.compare`."""
        for _, a, b in _pairs(self.name, reference, candidate):
            self._worst = max(self._worst, float(np.max(np.abs(a - b), initial=0.0)))

    def score(self) -> Score:
        """See `Metric.score`; a maximum has no interval."""
        return self.made(self._worst, note=None if self._worst else "exact")


def _pairs(name: str, reference: Outputs, candidate: Outputs) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each floating-point output as two vectors of finite float64, with its position."""
    if not any(is_float(out) for out in reference):
        raise InputError(f"{name} needs an output of floating-point numbers", hint="--metric agreement compares others")
    for position, (before, after) in enumerate(zip(reference, candidate, strict=True)):
        if not is_float(before):
            continue
        a = np.asarray(before, np.float64).ravel()
        b = np.asarray(after, np.float64).ravel() if after.shape == before.shape else np.zeros_like(a)
        compared = np.isfinite(a) | np.isfinite(b) | ((a != b) & ~(np.isnan(a) & np.isnan(b)))
        yield position, _finite(a[compared]), _finite(b[compared])


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """1 for two zero vectors, 0 when only one of them is zero."""
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if lengths == 0:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return max(-1.0, min(1.0, float(a @ b) / lengths))


def _decibels(noise_to_signal: float) -> float:
    return -10 * math.log10(noise_to_signal)
