"""Classification against labels: is the true class among the k highest scores?"""

from __future__ import annotations

import numpy as np

from modelopt.errors import InputError
from modelopt.measure.metric import Outputs, TaskMetric, is_float


class TopK(TaskMetric):
    """The share of rows whose label is among the `k` highest scores.

    The scores are the first floating-point output whose last axis holds at least two classes and whose other axes hold
    as many rows as there are labels: labels (N,) go with (N, C), a label () with (C,) or (1, C), labels (N, T) with
    (N, T, C). For k = 1 an integer output with one number per label counts as the predicted classes. A row with a NaN
    is wrong; of equal scores the first class ranks higher.
    """

    unit = "share"
    higher_is_better = True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.name = f"top{k}"
        self._k = k

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`; the rows of one sample hang together where the scores have more than two axes."""
        if label is None:
            raise InputError(f"{self.name} needs labels", hint="give data with labels, or choose another --metric")
        if label.dtype.kind not in "iu":
            raise InputError(
                f"{self.name} needs class numbers as labels",
                note=f"the labels are {label.dtype.name}",
                hint="--metric file.py:function scores labels of any kind",
            )
        scores = find_scores(outputs, label)
        if scores is None and self._k == 1:
            classes = _find_classes(outputs, label)
            if classes is not None:
                return (classes.ravel() == label.ravel()).astype(np.float64), label.ndim > 1
        if scores is None:
            raise InputError(
                "the labels do not fit any output",
                note=f"labels: {list(label.shape)}; outputs: {', '.join(str(list(out.shape)) for out in outputs)}",
                hint="--metric file.py:function scores outputs of any shape",
            )
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


def _find_classes(outputs: Outputs, label: np.ndarray) -> np.ndarray | None:
    return next((out for out in outputs if out.dtype.kind in "iu" and out.size == label.size), None)
