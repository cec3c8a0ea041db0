"""Word and character error rates of text against labels that are text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence

import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.metric import Outputs, Score, Tally, Unfit
from modelopt.measure.stats import Interval, proportion_interval
from modelopt.measure.task_metric import TaskMetric

MAX_PARTS = 20_000
"""The most words or characters of one text: the time of the comparison grows with the product of the lengths."""


class _Edits(Tally):
    """Collects pairs (edits, parts of the label) as the sum and the count of a unit."""

    def add(self, items: np.ndarray, *, together: bool) -> None:
        """See `Tally.add`; each row of items, float64[k, 2], is a unit."""
        for edits, parts in items:
            self.add_sums(float(edits), float(parts))

    def interval(self) -> Interval | None:
        """See `Tally.interval`; without any error it is that of texts that are right or wrong."""
        found = super().interval()
        units = self.units
        if found is not None and not units.sums.any():
            return proportion_interval(0, len(units.sums))
        return found and Interval(low=max(0.0, found.low), high=found.high)


class ErrorRate(TaskMetric):
    """Insertions, deletions and substitutions that make the labels of the answers, over the length of all labels.

    The answers are the first output of strings with as many elements as the label. A text is a unit.
    """

    unit = "share"
    higher_is_better = False

    @abstractmethod
    def parts(self, text: str) -> Sequence[str]:
        """The words or characters of a text."""

    def tally(self) -> Tally:
        """See `TaskMetric.tally`."""
        return _Edits()

    def wrong(self, items: np.ndarray) -> np.ndarray:
        """See `TaskMetric.wrong`: all parts of the label are missing."""
        return np.repeat(items[:, 1:], 2, axis=1)

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`: one row (edits, length) for each text."""
        label = self.require_labels(label, "UO", "text")
        answers = next((out for out in outputs if out.dtype.kind in "UO" and out.size == label.size), None)
        if answers is None:
            kinds = ", ".join(f"{out.dtype.name}{list(out.shape)}" for out in outputs)
            raise Unfit(
                "no output holds one text for each label",
                note=f"labels: {list(label.shape)}; outputs: {kinds}",
                hint="--metric file.py:function can make text of numbers",
            )
        pairs = zip(answers.ravel().tolist(), label.ravel().tolist(), strict=True)
        return np.array([self._compared(str(answer), str(true)) for answer, true in pairs]).reshape(-1, 2), True

    def _compared(self, answer: str, true: str) -> tuple[float, float]:
        ours, theirs = self.parts(answer), self.parts(true)
        if max(len(ours), len(theirs)) > MAX_PARTS:
            raise InputError(f"a text is too long for {self.name}", note=f"the limit is {MAX_PARTS} {self._unit_name}")
        return float(edit_distance(theirs, ours)), float(len(theirs))

    _unit_name = "parts"

    def _score(self, tally: Tally, nonfinite: int) -> Score:
        value = tally.units.mean if tally.n else None
        return self.scored(value, tally.n, tally.interval(), nonfinite=nonfinite)


class WordErrorRate(ErrorRate):
    """The `ErrorRate` over words, which blanks separate."""

    name = "wer"
    _unit_name = "words"

    def parts(self, text: str) -> Sequence[str]:
        """See `ErrorRate.parts`."""
        return text.split()


class CharacterErrorRate(ErrorRate):
    """The `ErrorRate` over characters, blanks at the ends left out."""

    name = "cer"
    _unit_name = "characters"

    def parts(self, text: str) -> Sequence[str]:
        """See `ErrorRate.parts`."""
        return text.strip()


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions between two sequences (Levenshtein)."""
    known: dict[Hashable, int] = {}
    a, b = (np.array([known.setdefault(part, len(known)) for part in parts], np.int64) for parts in (first, second))
    columns = np.arange(len(b) + 1)
    row = columns.copy()
    for number, part in enumerate(a, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != part))
        # An insertion adds 1 to the cell on its left, so the least over all cells on the left is a running minimum.
        row = np.minimum.accumulate(np.concatenate(([number], best)) - columns) + columns
    return int(row[-1])
