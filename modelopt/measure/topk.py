"""Classification against labels: is the true class among the k highest scores?"""

from __future__ import annotations

import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.chance import Chance, Guesses
from modelopt.measure.metric import Outputs, is_float
from modelopt.measure.task_metric import TaskMetric, no_fitting_output


class TopK(TaskMetric):
    """The share of rows whose label is among the `k` highest scores.

    The scores are the first floating-point output whose last axis holds at least two classes and whose other axes hold
    as many rows as there are labels: labels (N,) go with (N, C), a label () with (C,) or (1, C), labels (N, T) with
    (N, T, C). For k = 1 an integer output with one number per label counts as the predicted classes. A row with a NaN
    is wrong; of equal scores the first class ranks higher.
    """

    unit = "share"
    higher_is_better = True

    def __init__(self, k: int, *, inferred: bool = False) -> None:
        super().__init__(inferred=inferred)
        self.name = f"top{k}"
        self._k = k
        self._guesses = Guesses(k)

    def update(self, reference: Outputs, candidate: Outputs, label: np.ndarray | None) -> None:
        """See `Metric.update`."""
        scored = self.units
        super().update(reference, candidate, label)
        if label is not None and self.units > scored:
            self._count(reference, label)

    def _count(self, reference: Outputs, label: np.ndarray) -> None:
        """Count answers and labels, for the score of guessing."""
        scores = find_scores(reference, label)
        if scores is not None:
            rows = scores.reshape(-1, scores.shape[-1])
            self._guesses.add(_highest(rows, self._k), label, rows.shape[1])
        elif (classes := find_classes(reference, label)) is not None:
            self._guesses.add(classes, label, 0)

    def chance(self) -> Chance | None:
        """See `TaskMetric.chance`."""
        found = self.reference_score()
        return self._guesses.chance(found.value, found.low, self.units)

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`; the rows of one sample are one unit where the scores have more than two axes."""
        hint = "--metric file.py:function scores labels of any kind"
        label = self.require_labels(label, "iu", "class numbers", hint=hint)
        scores = find_scores(outputs, label)
        if scores is None and self._k == 1:
            classes = find_classes(outputs, label)
            if classes is not None:
                return (classes.ravel() == label.ravel()).astype(np.float64), label.ndim > 1
        if scores is None:
            raise no_fitting_output(label, outputs)
        return self._right(scores, label.ravel()), scores.ndim > 2

    def _right(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.asarray(scores, np.float64).reshape(labels.size, scores.shape[-1])
        n_classes = rows.shape[1]
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
            raise InputError(
                f"a label is no class of the model, which has classes 0 to {n_classes - 1}",
                note=f"labels lie in {labels.min()} to {labels.max()}",
            )
        index = labels.astype(np.int64)[:, None]
        own = np.take_along_axis(rows, index, axis=1)
        ahead = (rows > own) | ((rows == own) & (np.arange(n_classes) < index))
        right: np.ndarray = (ahead.sum(axis=1) < self._k) & ~np.isnan(rows).any(axis=1)
        return right.astype(np.float64)


def find_scores(outputs: Outputs, label: np.ndarray) -> np.ndarray | None:
    """The first output that holds one row of class scores for each label, else None."""
    for out in outputs:
        if is_float(out) and out.ndim and out.shape[-1] > 1 and out.size == label.size * out.shape[-1]:
            return out
    return None


def _highest(rows: np.ndarray, k: int) -> np.ndarray:
    """int[rows, k]: the classes that score highest."""
    if k == 1:
        best: np.ndarray = rows.argmax(axis=1)[:, None]
        return best
    found: np.ndarray = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    return found


def find_classes(outputs: Outputs, label: np.ndarray) -> np.ndarray | None:
    """The first integer output that holds one class for each label, else None."""
    return next((out for out in outputs if out.dtype.kind in "iu" and out.size == label.size), None)
