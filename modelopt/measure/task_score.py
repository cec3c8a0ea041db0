"""How well two models do a task, as data that a report keeps."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from modelopt.measure.chance import Chance
from modelopt.measure.metric import Score
from modelopt.measure.stats import Delta, Units
from modelopt.measure.task_metric import TaskMetric

MOST_UNITS = 20_000
"""A report keeps the scores of at most so many units of a metric."""


class UnitScores(msgspec.Struct, frozen=True, kw_only=True):
    """The score of each unit: see `stats.Units`.

    Attributes:
        sums: Summed over the items of each unit.
        counts: Items of each unit; None where each unit is one item.
    """

    sums: tuple[float, ...]
    counts: tuple[float, ...] | None = None

    @classmethod
    def of(cls, units: Units) -> UnitScores:
        """The scores of units."""
        counts = None if np.all(units.counts == 1) else tuple(units.counts.tolist())
        return cls(sums=tuple(units.sums.tolist()), counts=counts)

    def units(self) -> Units:
        """The units of the scores."""
        sums = np.array(self.sums, np.float64)
        return Units(sums, np.ones_like(sums) if self.counts is None else np.array(self.counts, np.float64))


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """How well two models do a task.

    Attributes:
        reference: The original's score.
        candidate: The other model's score.
        delta: Candidate minus reference, paired; None where one of them has no item at all.
        chance: How the original's score stands to guessing; None where that is not known.
        units: What the candidate scored on each unit, to compare another run on the same data with; None of more than
            `MOST_UNITS`, and where the score is no mean over units.
        relative: A contract bounds the change as a fraction of the original's score.
    """

    reference: Score
    candidate: Score
    delta: Delta | None
    chance: Chance | None = None
    units: UnitScores | None = None
    relative: bool = False

    @property
    def fall(self) -> float | None:
        """How much worse the candidate is; None where that is not known."""
        return None if self.delta is None else self.worse(self.delta.point)

    def worse(self, change: float) -> float:
        """How much worse a change of the score is, as a contract bounds it."""
        fall = -change if self.candidate.higher_is_better else change
        if not self.relative or not fall:
            return fall
        original = self.reference.value
        return fall / abs(original) if original else math.copysign(math.inf, fall)


def task_score(task: TaskMetric) -> TaskScore:
    """The scores of a metric over all samples so far."""
    units = task.candidate_units
    return TaskScore(
        reference=task.reference_score(),
        candidate=task.score(),
        delta=task.delta(),
        chance=task.chance(),
        units=UnitScores.of(units) if units is not None and len(units.sums) <= MOST_UNITS else None,
        relative=task.relative,
    )
