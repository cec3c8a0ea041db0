"""F1 of classes against labels, averaged over the classes."""

from __future__ import annotations

from array import array

import numpy as np

from modelopt.measure.metric import Outputs, Score, Tally, clipped
from modelopt.measure.resample import bootstrap
from modelopt.measure.stats import CONFIDENCE, RESAMPLES, Delta, Interval, Units, paired_difference_interval
from modelopt.measure.task_metric import TaskMetric, no_fitting_output
from modelopt.measure.topk import find_classes, find_scores

_NO_CLASS = -1


class _ClassCounts(Tally):
    """Collects pairs (label, answer), counted by class within each unit; as a `Tally` it holds what is right."""

    def __init__(self) -> None:
        super().__init__()
        self._unit, self._class = array("q"), array("q")
        self._right, self._true, self._answered = array("d"), array("d"), array("d")
        self._units = 0

    def add(self, items: np.ndarray, *, together: bool) -> None:
        """See `Tally.add`; items are int64[k, 2], rows of (label, answer)."""
        super().add((items[:, 0] == items[:, 1]).astype(np.float64), together=together)
        for unit in [items] if together else items[:, None]:
            self._add_unit(unit)

    def _add_unit(self, pairs: np.ndarray) -> None:
        classes, place = np.unique(pairs, return_inverse=True)
        true, answered = place.reshape(pairs.shape).T
        counts = [np.bincount(each, minlength=len(classes)) for each in (true[true == answered], true, answered)]
        kept = classes != _NO_CLASS
        self._class.extend(classes[kept].tolist())
        self._unit.extend([self._units] * int(kept.sum()))
        for held, count in zip((self._right, self._true, self._answered), counts, strict=True):
            held.extend(count[kept].astype(np.float64).tolist())
        self._units += 1

    def macro(self, rows: np.ndarray) -> np.ndarray:
        """F1 averaged over the classes that are a label or an answer, float64[k], for unit numbers int[k, n]."""
        unit = np.array(self._unit, np.int64)
        _, place = np.unique(np.array(self._class, np.int64), return_inverse=True)
        right = 2 * np.array(self._right)
        total = np.array(self._true) + np.array(self._answered)
        found = np.empty(len(rows))
        for number, row in enumerate(rows):
            weight = np.bincount(row, minlength=self._units)[unit]
            totals = np.bincount(place, weight * total)
            seen = totals > 0
            found[number] = (np.bincount(place, weight * right)[seen] / totals[seen]).mean() if seen.any() else np.nan
        return found

    @property
    def value(self) -> float:
        """F1 of all units."""
        return float(self.macro(np.arange(self._units)[None])[0])


class F1(TaskMetric):
    """F1 of each class, averaged over the classes that occur among the labels or the answers (macro average).

    The answers are the highest class of the output that `TopK` finds. A row with a NaN answers no class.
    """

    name = "f1"
    unit = "share"
    higher_is_better = True
    _reference: _ClassCounts
    _candidate: _ClassCounts

    def tally(self) -> Tally:
        """See `TaskMetric.tally`."""
        return _ClassCounts()

    def wrong(self, items: np.ndarray) -> np.ndarray:
        """See `TaskMetric.wrong`."""
        return np.stack([items[:, 0], np.full(len(items), _NO_CLASS)], axis=1)

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`: rows of (label, answer)."""
        label = self.require_labels(label, "iu", "class numbers")
        scores, classes = find_scores(outputs, label), find_classes(outputs, label)
        if scores is not None:
            rows = np.asarray(scores, np.float64).reshape(-1, scores.shape[-1])
            answers = np.where(np.isnan(rows).any(axis=1), _NO_CLASS, rows.argmax(axis=1))
            return np.stack([label.ravel().astype(np.int64), answers], axis=1), scores.ndim > 2
        if classes is not None:
            return np.stack([label.ravel().astype(np.int64), classes.ravel().astype(np.int64)], axis=1), label.ndim > 1
        raise no_fitting_output(label, outputs)

    @property
    def candidate_units(self) -> Units | None:
        """None: F1 is no mean over units."""
        return None

    def delta(self) -> Delta | None:
        """See `TaskMetric.delta`; where no resample differs, the interval is that of the share of right answers."""
        before, after = self._reference, self._candidate
        if not (before.n and after.n):
            return None
        point = after.value - before.value
        right = paired_difference_interval(before.units, after.units)
        if right.low is None or right.high is None:
            return Delta(point=point, low=None, high=None)
        low, high = bootstrap(
            self.units, lambda rows: after.macro(rows) - before.macro(rows), CONFIDENCE, RESAMPLES, seed=0
        )
        if low == high:
            low, high = point + right.low - right.point, point + right.high - right.point
        return Delta(point=point, low=low, high=high)

    def _score(self, tally: Tally, nonfinite: int) -> Score:
        if not tally.n or not isinstance(tally, _ClassCounts):
            return self.scored(None, 0)
        return self.scored(tally.value, tally.n, _interval(tally), nonfinite=nonfinite)


def _interval(tally: _ClassCounts) -> Interval | None:
    n = len(tally.units.sums)
    if n < 2:
        return None
    low, high = bootstrap(n, tally.macro, CONFIDENCE, RESAMPLES, seed=0)
    return tally.share_interval() if low == high else clipped(Interval(low=low, high=high), 0.0, 1.0)
