"""Measures of outputs that hold decisions: the class of a row, the symbols of a sequence, yes or no for each number."""

from __future__ import annotations

import numpy as np

from modelopt.measure.metric import Measure, Score, Tally

_LONG = 64


class ClassAgreement(Measure):
    """The share of rows whose highest class is the same.

    One class may take more than half of the rows of all samples, as a background does in segmentation. Rows that both
    models give to that class are then left out: there are so many of them that no other difference would show.

    Args:
        axis: The axis of the classes, negative.
    """

    name = "argmax-agreement"

    def __init__(self, axis: int = -1) -> None:
        self._axis = axis
        self._tally = Tally()
        self._same: list[np.ndarray] = []
        self._different: list[np.ndarray] = []
        self._one_row_each = True

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        a, b = (values[None] if values.ndim == 1 else values for values in (a, b))
        axis = self._axis if a.ndim >= -self._axis else -1
        classes = a.shape[axis]
        before, after = a.argmax(axis).ravel(), b.argmax(axis).ravel()
        # Per class: how many rows both models give to it, and how many only one of them does.
        either = np.bincount(before, minlength=classes) + np.bincount(after, minlength=classes)
        both = np.bincount(before[before == after], minlength=classes)
        self._one_row_each &= a.size == classes * a.shape[0]
        if self._one_row_each:
            self._tally.add((before == after).astype(np.float64), together=False)
        self._same.append(both)
        self._different.append(either - 2 * both)

    def score(self) -> Score:
        """See `Measure.score`."""
        if self._one_row_each or not self._same:
            return self.share(self._tally)
        # The number of classes may change from sample to sample.
        width = max(map(len, self._same))
        same, different = (
            np.array([np.pad(each, (0, width - len(each))) for each in found])
            for found in (self._same, self._different)
        )
        kept = same.sum(1)
        counted = kept + different.sum(1) / 2  # a row that differs is counted by both of its classes
        most = int(same.sum(0).argmax())
        if same[:, most].sum() > counted.sum() / 2:
            counted, kept = counted - same[:, most], kept - same[:, most]
        tally = Tally()
        for part, whole in zip(kept, counted, strict=True):
            if whole > 0:
                tally.add_sums(float(part), float(whole))
        return self.share(tally) if tally.n else self.scored(1.0, int(same.sum()))


class SequenceAgreement(Measure):
    """The share of sequences whose symbols are all the same; in sequences of more than 64, the share of symbols.

    Args:
        axis: The axis of the classes, negative.
        blank: The class that stands for "no symbol here". Symbols are then read without it and without repeats, as
            connectionist temporal classification does (CTC, Graves et al. 2006).
    """

    name = "sequence-agreement"

    def __init__(self, axis: int = -1, blank: int | None = None) -> None:
        self._axis = axis
        self._blank = blank
        self._tally = Tally()

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        before, after = (values.argmax(self._axis) for values in (a, b))
        before, after = (each.reshape(-1, each.shape[-1]) for each in (before, after))
        if self._blank is None and before.shape[1] > _LONG:
            self._tally.add((before == after).ravel().astype(np.float64), together=True)
            return
        same = [self._read(one) == self._read(other) for one, other in zip(before, after, strict=True)]
        self._tally.add(np.array(same, np.float64), together=False)

    def _read(self, steps: np.ndarray) -> list[int]:
        if self._blank is None:
            return [int(step) for step in steps]
        starts = np.concatenate([[True], steps[1:] != steps[:-1]])
        return [int(step) for step in steps[starts & (steps != self._blank)]]

    def score(self) -> Score:
        """See `Measure.score`."""
        return self.share(self._tally)


class ThresholdAgreement(Measure):
    """Of the numbers above a threshold in one of the two models, the share that is above it in both; 1 where none is.

    Args:
        threshold: A number above it means yes.
        all_count: Numbers below the threshold in both models count too, as equal answers.
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
        return self.scored(1.0, self._seen) if self._seen and not self._tally.n else self.share(self._tally)
