"""Retrieval: do the nearest embeddings belong to the same thing?"""

from __future__ import annotations

from array import array

import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.metric import Outputs, Tally, Unfit
from modelopt.measure.stats import Units
from modelopt.measure.task_metric import TaskMetric, shapes
from modelopt.measure.topk import find_scores

MAX_ROWS = 50_000
"""The most embeddings: each is compared with every other one."""

MAX_ELEMENTS = 64 << 20
"""The most numbers of all embeddings of a model, kept as float32 until all are there."""

_BLOCK_ELEMENTS = 4_000_000


class _Embeddings(Tally):
    """Keeps the embeddings of all samples; each whose label occurs twice is an item, right or wrong."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self._k = k
        self._labels = array("q")
        self._rows: list[np.ndarray] = []
        self._found: np.ndarray | None = None

    def add(self, items: np.ndarray, *, together: bool) -> None:
        """See `Tally.add`; each row of items, float64[k, 1 + d], is the number of a label and an embedding."""
        self._labels.extend(items[:, 0].astype(np.int64).tolist())
        self._rows.append(items[:, 1:].astype(np.float32))
        self._found = None
        if len(self._labels) > MAX_ROWS or len(self._labels) * self._rows[0].shape[1] > MAX_ELEMENTS:
            raise InputError("there are too many embeddings for recall", hint="use some of them: --eval-limit N")

    @property
    def n(self) -> int:
        """See `Tally.n`."""
        return len(self.units.sums)

    @property
    def units(self) -> Units:
        """See `Tally.units`."""
        if self._found is None:
            self._found = self._right()
        return Units(self._found, np.ones_like(self._found))

    def _right(self) -> np.ndarray:
        if not self._rows:
            return np.zeros(0)
        labels = np.array(self._labels, np.int64)
        rows = np.concatenate(self._rows).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        finite = np.isfinite(rows).all(axis=1)
        rows[~finite] = 0
        step = max(1, _BLOCK_ELEMENTS // len(rows))
        parts = []
        for start in range(0, len(rows), step):
            asked = np.arange(start, min(start + step, len(rows)))
            near = rows[asked] @ rows.T
            near[:, ~finite] = -2  # below every cosine
            near[np.arange(len(asked)), asked] = -3
            same = labels[asked, None] == labels
            same[np.arange(len(asked)), asked] = False
            best = np.where(same, near, -3).max(axis=1, keepdims=True)
            ahead = (~same & (near >= best)).sum(axis=1)
            right = (ahead < self._k) & finite[asked] & (best[:, 0] > -2)
            parts.append(right[same.any(axis=1)])
        return np.concatenate(parts).astype(np.float64)


class RecallAtK(TaskMetric):
    """The share of embeddings that have another one of the same label among their `k` nearest, by cosine.

    The embeddings are the output that `TopK` finds, one row for each label; the labels are class numbers or words.
    An embedding whose label no other one has is not counted. Of equal cosines those of other labels are nearer.
    """

    unit = "share"
    higher_is_better = True

    def __init__(self, k: int) -> None:
        self._k = k
        self.name = f"recall@{k}"
        self._numbers: dict[object, int] = {}
        super().__init__()

    def tally(self) -> Tally:
        """See `TaskMetric.tally`."""
        return _Embeddings(self._k)

    def wrong(self, items: np.ndarray) -> np.ndarray:
        """See `TaskMetric.wrong`."""
        return np.concatenate([items[:, :1], np.full_like(items[:, 1:], np.nan)], axis=1)

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`: rows of the number of a label and an embedding."""
        label = self.require_labels(label, "iuU", "class numbers or words")
        rows = find_scores(outputs, label)
        if rows is None:
            raise Unfit("no output holds one embedding for each label", note=shapes(label, outputs))
        numbers = [self._numbers.setdefault(each, len(self._numbers)) for each in label.ravel().tolist()]
        held = np.asarray(rows, np.float64).reshape(-1, rows.shape[-1])
        return np.concatenate([np.array(numbers, np.float64)[:, None], held], axis=1), False
