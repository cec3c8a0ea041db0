"""How far one output of the candidate is from the reference's, by what the output stands for; no labels are needed.

Each `Measure` takes one output sample by sample. Its score is a share, and what is lost of it is what a contract
bounds: answers that changed, or an error relative to the output's own size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from modelopt.measure.metric import NOTHING_COMPARED, Score, Tally, clipped
from modelopt.measure.output_kinds import Kind, Recognized
from modelopt.measure.stats import Interval, Units, mean_interval

ERROR_BOUND = {
    Kind.CLASSES: 0.5,
    Kind.TOKENS: 0.5,
    Kind.LABELS: 0.35,
    Kind.PROBABILITY: 0.35,
    Kind.DETECTIONS: 0.35,
    Kind.EMBEDDING: 0.15,
}
"""The most that an output may be off where its answers agree, relative to its size over all samples: what is done with
the values besides (a confidence, a threshold, a distance) must still make sense."""

_LONG = 64
_RANKED_ROWS = 2000
_COMPARED_VECTORS = 256
_EMBEDDED_BYTES = 64 * 2**20
_FEWEST_TO_RANK = 4
_TIE = 0.01
_SCALES_APART = 8.0
_OFF = 0.5
_CONSTANT = 1e-9
_MOST_CHANNELS = 128
_MOST_MAPS = 16


class Measure(ABC):
    """Compares one output; see the module.

    Attributes:
        name: As ``--metric OUTPUT=NAME`` takes it.
    """

    name: str

    @abstractmethod
    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take in one sample.

        Args:
            a: The reference's values, float64, with at least one element.
            b: The candidate's, of the same shape; both without NaN and infinity: see `metric.aligned`.
        """

    @abstractmethod
    def score(self) -> Score:
        """The score; without a value where nothing was compared."""

    def made(self, value: float | None, n: int, interval: Interval | None = None, *, better: bool = True) -> Score:
        """A share as a score."""
        return Score(
            name=self.name,
            value=value,
            n=n,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            unit="share",
            higher_is_better=better,
            note=NOTHING_COMPARED if value is None else None,
        )


class _Shares(Measure):
    """Items that are the same or not, per sample."""

    def __init__(self) -> None:
        self.tally = Tally()

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self.tally.n:
            return self.made(None, 0)
        return self.made(self.tally.units.mean, self.tally.n, clipped(self.tally.interval(), 0.0, 1.0))


class ClassAgreement(_Shares):
    """The share of rows whose highest class is the same.

    Where a sample has many rows and one class takes more than half of them (a background), the rows that both models
    give to it are left out: they would hide everything else.

    Args:
        axis: Of the classes, negative.
    """

    name = "argmax-agreement"

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self._axis = axis
        self._counts: np.ndarray | None = None
        self._same: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._alone = True

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        a, b = (values[None] if values.ndim == 1 else values for values in (a, b))
        axis = self._axis if a.ndim >= -self._axis else -1
        classes = a.shape[axis]
        before, after = a.argmax(axis).ravel(), b.argmax(axis).ravel()
        # Per class: how many rows have it in one of the two models, and of these how many in both.
        either = np.bincount(before, minlength=classes) + np.bincount(after, minlength=classes)
        both = np.bincount(before[before == after], minlength=classes)
        self._alone &= a.size == classes * a.shape[0]
        if self._alone:
            self.tally.add((before == after).astype(np.float64), together=False)
        self._same.append(both)
        self._rows.append(either - both)

    def score(self) -> Score:
        """See `Measure.score`."""
        if self._alone or not self._rows:
            return super().score()
        width = max(len(each) for each in self._rows)
        same, rows = (
            np.array([np.pad(each, (0, width - len(each))) for each in found]) for found in (self._same, self._rows)
        )
        most = int(same.sum(0).argmax())
        counted = same.sum(1) + (rows - same).sum(1) / 2  # a row that differs is counted by both of its classes
        if same[:, most].sum() > counted.sum() / 2:
            counted, kept = counted - same[:, most], same.sum(1) - same[:, most]
        else:
            kept = same.sum(1)
        tally = Tally()
        for part, whole in zip(kept, counted, strict=True):
            if whole > 0:
                tally.add_sums(float(part), float(whole))
        if not tally.n:
            return self.made(1.0, int(same.sum()))
        return self.made(tally.units.mean, tally.n, clipped(tally.interval(), 0.0, 1.0))


class SequenceAgreement(_Shares):
    """The share of sequences whose symbols are all the same; of sequences of more than 64, the share of symbols.

    Args:
        axis: Of the classes, negative.
        blank: What stands for "no symbol here": symbols are then read without it and without repeats (CTC, Graves et
            al. 2006).
    """

    name = "sequence-agreement"

    def __init__(self, axis: int = -1, blank: int | None = None) -> None:
        super().__init__()
        self._axis = axis
        self._blank = blank

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        before, after = (values.argmax(self._axis) for values in (a, b))
        before, after = (each.reshape(-1, each.shape[-1]) for each in (before, after))
        if self._blank is None and before.shape[1] > _LONG:
            self.tally.add((before == after).ravel().astype(np.float64), together=True)
            return
        same = [self._read(one) == self._read(other) for one, other in zip(before, after, strict=True)]
        self.tally.add(np.array(same, np.float64), together=False)

    def _read(self, steps: np.ndarray) -> list[int]:
        if self._blank is None:
            return [int(step) for step in steps]
        starts = np.concatenate([[True], steps[1:] != steps[:-1]])
        return [int(step) for step in steps[starts & (steps != self._blank)]]


class ThresholdAgreement(Measure):
    """Of what lies above a threshold in one of the two models, the share that does in both; 1 where nothing does.

    Args:
        threshold: What a yes is above.
        all_count: Every number is an answer, also one that both models say no to.
    """

    name = "threshold-agreement"

    def __init__(self, threshold: float = 0.5, *, all_count: bool = False) -> None:
        self._threshold = threshold
        self._all_count = all_count
        self._tally = Tally()
        self._seen = 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        before, after = a > self._threshold, b > self._threshold
        self._seen += a.size
        if self._all_count:
            self._tally.add((before == after).ravel().astype(np.float64), together=a.ndim > 2)
            return
        either = int((before | after).sum())
        if either:
            self._tally.add_sums(float((before & after).sum()), float(either))

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self._tally.n:
            return self.made(1.0, self._seen) if self._seen else self.made(None, 0)
        return self.made(self._tally.units.mean, self._tally.n, clipped(self._tally.interval(), 0.0, 1.0))


class RankAgreement(Measure):
    """The share of pairs of rows that both models put in the same order (Kendall 1938), ties of the reference left out.

    Two rows tie that are nearer than a hundredth of the standard deviation.
    """

    name = "rank-agreement"

    def __init__(self) -> None:
        self._before: list[float] = []
        self._after: list[float] = []

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        if len(self._before) < _RANKED_ROWS:
            self._before += a.ravel().tolist()
            self._after += b.ravel().tolist()

    def score(self) -> Score:
        """See `Measure.score`."""
        a, b = (np.array(values[:_RANKED_ROWS]) for values in (self._before, self._after))
        if len(a) < _FEWEST_TO_RANK:
            return self.made(None, 0)
        tie = _TIE * float(a.std())
        sums, counts = np.zeros(len(a)), np.zeros(len(a))
        for row in range(len(a)):
            before, after = a - a[row], b - b[row]
            apart = np.abs(before) > tie
            sums[row] = ((before * after)[apart] > 0).sum()
            counts[row] = apart.sum()
        if not counts.any():
            return self.made(None, 0)
        units = Units(sums[counts > 0], counts[counts > 0])
        return self.made(units.mean, len(a), clipped(mean_interval(units), 0.0, 1.0))


class _Vectors(Measure):
    """Keeps the vectors of both models, the last axis each, up to a limit of memory."""

    def __init__(self) -> None:
        self._before: list[np.ndarray] = []
        self._after: list[np.ndarray] = []
        self._bytes = 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        if self._bytes + 2 * a.nbytes > _EMBEDDED_BYTES:
            return
        self._bytes += 2 * a.nbytes
        self._before.extend(a.reshape(-1, a.shape[-1]))
        self._after.extend(b.reshape(-1, b.shape[-1]))

    def cosines(self, most: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of each vector with each other in both models, float64[n, n]; None for few vectors or unlike ones.

        Args:
            most: How many vectors, taken evenly.
        """
        step = max(1, -(-len(self._before) // most))
        rows = self._before[::step], self._after[::step]
        if len(rows[0]) < _FEWEST_TO_RANK or len({len(each) for each in rows[0]}) > 1:
            return None
        return _cosines(np.array(rows[0])), _cosines(np.array(rows[1]))


class NeighborAgreement(_Vectors):
    """How near the nearest neighbor of each vector by the candidate still is in the reference, by cosine, on average.

    1 is as near as the nearest, 0 as the middle one: a change between two that are about as near costs next to nothing,
    so that few samples say as much as they can.
    """

    name = "neighbor-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        found = self.cosines(_RANKED_ROWS)
        if found is None:
            return self.made(None, 0)
        before, after = found
        nearest = before.max(1)
        middle = np.nanmedian(np.where(np.isfinite(before), before, np.nan), axis=1)
        still = before[np.arange(len(before)), after.argmax(1)]
        apart = nearest - middle
        near = np.where(apart > 0, (still - middle) / np.where(apart > 0, apart, 1), 1.0).clip(0.0, 1.0)
        tally = Tally()
        tally.add(near, together=False)
        return self.made(float(near.mean()), len(before), clipped(tally.interval(), 0.0, 1.0))


class SimilarityAgreement(_Vectors):
    """For each vector: the share of pairs of others that both models put in the same order of similarity to it.

    It sees a loss of retrieval that does not show in a few neighbors: a sentence encoder whose vectors are off by 5 %
    of their length finds 1.25 points fewer of its texts, and loses 1.2 % here. Two others tie whose cosines are nearer
    than a hundredth of the standard deviation.
    """

    name = "similarity-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        found = self.cosines(_COMPARED_VECTORS)
        if found is None:
            return self.made(None, 0)
        n = len(found[0])
        sums, counts = np.zeros(n), np.zeros(n)
        for row in range(n):
            others = np.arange(n) != row
            sums[row], counts[row] = _same_order(*(each[row][others] for each in found))
        if not counts.any():
            return self.made(None, 0)
        units = Units(sums[counts > 0], counts[counts > 0])
        return self.made(units.mean, n, clipped(mean_interval(units), 0.0, 1.0))


def _same_order(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Of the pairs of two elements that are apart in `before`: how many are in the same order in `after`, and all."""
    first, second = before[:, None] - before, after[:, None] - after
    apart = first > _TIE * float(before.std())
    return float((second > 0)[apart].sum()), float(apart.sum())


def _cosines(rows: np.ndarray) -> np.ndarray:
    """The cosine of each row with each other, and minus infinity with itself, float64[rows, rows]."""
    lengths = np.sqrt((rows**2).sum(1, keepdims=True))
    unit = rows / np.where(lengths > 0, lengths, 1)
    found: np.ndarray = unit @ unit.T
    np.fill_diagonal(found, -np.inf)
    return found


class _Errors(Measure):
    """Sums of squares by sample and channel.

    Args:
        axis: Of the channels, None where all values are of one kind.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self._noise: list[np.ndarray] = []
        self._signal: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []
        self._counts: list[int] = []

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        rows, others = (self._channels(values) for values in (a, b))
        if self._noise and len(self._noise[0]) != rows.shape[0]:  # the number of channels is free: all are one group
            self._axis = None
            for found in (self._noise, self._signal, self._sums):
                found[:] = [each.sum(keepdims=True) for each in found]
            rows, others = rows.reshape(1, -1), others.reshape(1, -1)
        self._noise.append(((rows - others) ** 2).sum(1))
        self._signal.append((rows**2).sum(1))
        self._sums.append(rows.sum(1))
        self._counts.append(rows.shape[1])

    def _channels(self, values: np.ndarray) -> np.ndarray:
        """float64[channels, values of each]."""
        if self._axis is None or values.ndim < -self._axis:
            return values.reshape(1, -1)
        return np.moveaxis(values, self._axis, 0).reshape(values.shape[self._axis], -1)


class RelativeError(_Errors):
    """The root of Σ (reference - candidate)² over Σ reference², over all samples; 0.01 is 40 dB of signal to noise.

    Numbers of unlike size stand side by side in many outputs, and the large ones would hide the small ones: channels
    whose root mean squares differ by a factor of eight are taken for themselves, and the worst group counts.
    """

    name = "relative-error"

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self._noise:
            return self.made(None, 0, better=False)
        noise, signal = np.array(self._noise), np.array(self._signal)
        worst: tuple[float, Interval | None] = (0.0, None)
        for group in _groups(signal.sum(0)):
            found = _error(noise[:, group].sum(1), signal[:, group].sum(1))
            worst = max(worst, found, key=lambda each: each[0])
        n = sum(self._counts) * len(self._noise[0])
        return self.made(worst[0], n, worst[1], better=False)


class SampleAgreement(_Errors):
    """The share of samples that are off by less than half of the standard deviation of the values over all samples.

    A few answers that are wrong altogether hardly show in an error over all samples, least where all values share an
    offset.
    """

    name = "sample-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self._noise:
            return self.made(None, 0)
        noise, signal, sums = (np.array(each) for each in (self._noise, self._signal, self._sums))
        counts = np.array(self._counts, np.float64)
        variance = signal.sum(0) / counts.sum() - (sums.sum(0) / counts.sum()) ** 2
        varies = variance > _CONSTANT * signal.sum(0) / counts.sum()
        if not varies.any():
            return self.made(None, 0)
        off = (noise[:, varies] / counts[:, None] / variance[varies]).mean(1)
        tally = Tally()
        tally.add((off < _OFF**2).astype(np.float64), together=False)
        return self.made(tally.units.mean, tally.n, clipped(tally.interval(), 0.0, 1.0))


def _groups(power: np.ndarray) -> list[np.ndarray]:
    """Channels of like size: int[k] each. Channels that are zero everywhere join the smallest."""
    groups: list[list[int]] = []
    for channel in np.argsort(-power):
        if not groups or 0 < power[channel] < power[groups[-1][0]] / _SCALES_APART**2:
            groups.append([])
        groups[-1].append(int(channel))
    return [np.array(group) for group in groups]


def _error(noise: np.ndarray, signal: np.ndarray) -> tuple[float, Interval | None]:
    """The relative error from sums of squares, each float64[samples], and its interval."""
    if not noise.any():
        return 0.0, Interval(low=0.0, high=0.0)
    if not signal.any():
        return math.inf, None
    units = Units(noise, signal)
    interval = mean_interval(units)
    if interval is None:
        return math.sqrt(units.mean), None
    return math.sqrt(units.mean), Interval(low=math.sqrt(max(0.0, interval.low)), high=math.sqrt(interval.high))


class _Scored(Measure):
    """A measure of the scores of detections alone, or of their boxes where a score says that something is there."""

    def __init__(self, inner: Measure, known: Recognized, *, boxes: bool) -> None:
        self.name = inner.name
        self._inner = inner
        self._known = known
        self._boxes = boxes

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        scores = self._known.scores
        if scores is None or a.shape[self._known.axis] != len(scores):
            self._inner.update(a, b)
            return
        rows, others = (np.moveaxis(each, self._known.axis, -1).reshape(-1, len(scores)) for each in (a, b))
        if not self._boxes:
            self._inner.update(rows[:, scores], others[:, scores])
            return
        there = (rows[:, scores] > self._known.threshold).any(1)
        if there.any():
            self._inner.update(rows[there][:, ~scores], others[there][:, ~scores])

    def score(self) -> Score:
        """See `Measure.score`."""
        return self._inner.score()


def measures_for(known: Recognized, shape: tuple[int, ...]) -> list[Measure]:
    """What compares an output of a kind: the worst of them decides.

    Args:
        known: The kind.
        shape: Of the output in the first sample.
    """
    kind = known.kind
    if kind is Kind.CLASSES:
        return [ClassAgreement(known.axis)]
    if kind is Kind.TOKENS:
        return [SequenceAgreement(known.axis, known.blank)]
    if kind is Kind.LABELS:
        return [ThresholdAgreement(known.threshold)]
    if kind is Kind.PROBABILITY:
        return [ThresholdAgreement(known.threshold, all_count=True), RankAgreement()]
    if kind is Kind.DETECTIONS:
        boxes = _Scored(RelativeError(-1), known, boxes=True)
        return [_Scored(ThresholdAgreement(known.threshold), known, boxes=False), boxes]
    if kind is Kind.EMBEDDING:
        return [NeighborAgreement(), SimilarityAgreement()]
    if kind is Kind.NUMBER:
        return [RelativeError(), RankAgreement(), SampleAgreement()]
    axis = _channel_axis(shape)
    return [RelativeError(axis), SampleAgreement(axis)]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis whose numbers may be of unlike size: the last of a table, the narrower one of a sequence, the maps."""
    rank = len(shape)
    if rank == 2:
        return -1 if shape[-1] <= _MOST_CHANNELS else None
    if rank == 3:
        axis = -1 if shape[-1] <= shape[-2] else -2
        return axis if shape[axis] <= _MOST_CHANNELS else None
    return 1 - rank if rank > 3 and shape[1 - rank] <= _MOST_MAPS else None
