"""The base of what compares one output of the candidate with the reference's, sample by sample; it needs no labels.

The score of a `Measure` is a share of equal answers, or an error relative to the size of the output. A contract bounds
the share that is not equal, or the error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from modelopt.measure.metric import NOTHING_COMPARED, Score, Tally
from modelopt.measure.stats import Interval


class Measure(ABC):
    """Compares one output.

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
        """A score of this measure; `better` says that a higher value is better."""
        note = NOTHING_COMPARED if value is None else None
        return Score.of(self.name, value, n, interval, unit="share", higher_is_better=better, note=note)

    def share(self, tally: Tally) -> Score:
        """The share of items that count as equal."""
        return self.made(tally.units.mean, tally.n, tally.share_interval()) if tally.n else self.made(None, 0)
