"""Whether the original scores better than guessing.

A model that only guesses loses no accuracy whatever is done to it, so its score says nothing of a change.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

import msgspec
import numpy as np

from modelopt.measure.stats import proportion_interval

_SLIGHT = 0.2
"""Up to here Landis & Koch (1977) call the agreement beyond chance (Cohen's kappa) none or slight."""


class Standing(Enum):
    """How a score compares with that of guessing."""

    ABOVE = "above chance"
    UNCLEAR = "not clearly above chance"
    AT_CHANCE = "at chance"
    TOO_FEW = "too few samples to tell"


class Chance(msgspec.Struct, frozen=True, kw_only=True):
    """What guessing gives on the same labels.

    Attributes:
        classes: How many classes the model has.
        level: The larger of k / classes and the share of the k most frequent labels: the best score of answers that
            ignore the input.
        expected: The score of answers with the frequencies of the original's, drawn independently of the labels.
        standing: How the original's score compares with both.
    """

    classes: int
    level: float
    expected: float
    standing: Standing


class Guesses:
    """Counts how often each label and each answer occurs.

    Args:
        k: How many answers a row has.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._classes = 0
        self._labels: Counter[int] = Counter()
        self._answers: Counter[int] = Counter()

    def add(self, answers: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Take in rows.

        Args:
            answers: int[rows, k], the classes that rank highest.
            labels: int[rows].
            classes: How many classes the model has; 0 where its outputs do not say.
        """
        self._classes = max(self._classes, classes)
        for counted, values in ((self._labels, labels), (self._answers, answers)):
            found, counts = np.unique(values, return_counts=True)
            counted.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def chance(self, score: float | None, low: float | None, units: int) -> Chance | None:
        """How the original's score compares with chance; None where nothing was scored.

        A score is *at chance* where the lower end of its interval is not above the expected score of answers that
        ignore the input, and Cohen's kappa is slight at most. A good model that was scored on few samples fails
        the second condition.

        Args:
            score: The original's.
            low: The lower end of its interval.
            units: How many independent units it is over.
        """
        rows = self._labels.total()
        if not rows or score is None:
            return None
        classes = self._classes or len(self._labels | self._answers)
        frequent = sum(count for _, count in self._labels.most_common(self._k)) / rows
        level = max(min(1.0, self._k / classes), frequent)
        expected = sum(count * self._answers[label] for label, count in self._labels.items()) / rows**2
        standing = _standing(score, low, units, level, expected)
        return Chance(classes=classes, level=level, expected=expected, standing=standing)


def _standing(score: float, low: float | None, units: int, level: float, expected: float) -> Standing:
    if low is None or proportion_interval(units, units).low <= level:
        return Standing.TOO_FEW
    if low > level:
        return Standing.ABOVE
    kappa = (score - expected) / (1 - expected)  # expected <= level < 1 here
    return Standing.AT_CHANCE if low <= expected and kappa <= _SLIGHT else Standing.UNCLEAR


def caution(name: str, score: float, chance: Chance) -> str | None:
    """The note or warning where the original's score is not clearly above chance, else None."""
    best = f"answers that ignore the input score {chance.level:.3g}"
    if chance.standing is Standing.AT_CHANCE:
        return (
            f"the original itself scores no better than chance ({score:.3g} of {chance.classes} classes): check "
            "--preprocess and the labels; such a score cannot show a loss of accuracy"
        )
    if chance.standing is Standing.UNCLEAR:
        return f"the original's {name} of {score:.3g} is not clearly above chance ({best})"
    if chance.standing is Standing.TOO_FEW:
        return (
            f"too few samples, or labels too alike, to tell the original's {name} of {score:.3g} from chance ({best})"
        )
    return None
