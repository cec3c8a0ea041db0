"""Measures of outputs that rank: rows by their number, and vectors by their similarity to each other."""

from __future__ import annotations

import numpy as np

from modelopt.measure.metric import Measure, Score, Tally, clipped
from modelopt.measure.stats import Units, mean_interval

_RANKED_ROWS = 2000
_COMPARED_VECTORS = 256
_KEPT_BYTES = 64 * 2**20
_FEWEST_TO_RANK = 4
_TIE = 0.01
"""Two numbers tie that differ by less than this share of the standard deviation of all: their order says nothing."""


class _PairOrder(Measure):
    """A measure whose score is the share of pairs in the same order."""

    def of_pairs(self, same: np.ndarray, pairs: np.ndarray) -> Score:
        """The score over rows that have pairs; the interval is over rows.

        Args:
            same: float64[rows], pairs of each row that both models put in the same order.
            pairs: float64[rows], pairs of each row that do not tie.
        """
        if not pairs.any():
            return self.scored(None, 0)
        units = Units(same[pairs > 0], pairs[pairs > 0])
        return self.scored(units.mean, len(pairs), clipped(mean_interval(units), 0.0, 1.0))


class RankAgreement(_PairOrder):
    """The share of pairs of rows that both models put in the same order (Kendall 1938), without ties."""

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
            return self.scored(None, 0)
        same, pairs = np.zeros(len(a)), np.zeros(len(a))
        tie = _TIE * float(a.std())
        for row in range(len(a)):
            before, after = a - a[row], b - b[row]
            apart = np.abs(before) > tie
            same[row], pairs[row] = ((before * after)[apart] > 0).sum(), apart.sum()
        return self.of_pairs(same, pairs)


class _Vectors(_PairOrder):
    """Keeps the vectors of both models, along the last axis, up to a limit of memory."""

    def __init__(self) -> None:
        self._before: list[np.ndarray] = []
        self._after: list[np.ndarray] = []
        self._bytes = 0

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        if self._bytes + 2 * a.nbytes > _KEPT_BYTES:
            return
        self._bytes += 2 * a.nbytes
        self._before.extend(a.reshape(-1, a.shape[-1]))
        self._after.extend(b.reshape(-1, b.shape[-1]))

    def cosines(self, most: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The cosine of each vector with each other in both models, float64[n, n]; None for fewer than four vectors.

        Vectors of different lengths give None too.

        Args:
            most: How many vectors, taken evenly.
        """
        step = max(1, -(-len(self._before) // most))
        rows = self._before[::step], self._after[::step]
        if len(rows[0]) < _FEWEST_TO_RANK or len({len(each) for each in rows[0]}) > 1:
            return None
        return _cosines(np.array(rows[0])), _cosines(np.array(rows[1]))


class NeighborAgreement(_Vectors):
    """How near the candidate's nearest neighbor of each vector is to it in the reference, by cosine, on average.

    1 is as near as the reference's nearest neighbor, 0 as near as the middle one of all vectors. Where two neighbors
    are about equally near, a change from one to the other lowers the score by very little, so few samples suffice.
    """

    name = "neighbor-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        found = self.cosines(_RANKED_ROWS)
        if found is None:
            return self.scored(None, 0)
        before, after = found
        nearest = before.max(1)
        middle = np.nanmedian(np.where(np.isfinite(before), before, np.nan), axis=1)
        still = before[np.arange(len(before)), after.argmax(1)]
        apart = nearest - middle
        near = np.where(apart > 0, (still - middle) / np.where(apart > 0, apart, 1), 1.0).clip(0.0, 1.0)
        tally = Tally()
        tally.add(near, together=False)
        return self.scored(float(near.mean()), len(before), tally.share_interval())


class SimilarityAgreement(_Vectors):
    """For each vector: the share of pairs of others that both models put in the same order of similarity to it.

    It finds a loss of retrieval that hardly changes the nearest neighbors. A sentence encoder whose vectors are off by
    5 % of their length finds 1.25 points fewer of its texts; this score is 1.2 % lower then.
    """

    name = "similarity-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        found = self.cosines(_COMPARED_VECTORS)
        if found is None:
            return self.scored(None, 0)
        n = len(found[0])
        same, pairs = np.zeros(n), np.zeros(n)
        for row in range(n):
            others = np.arange(n) != row
            before, after = (each[row][others] for each in found)
            apart = before[:, None] - before > _TIE * float(before.std())
            same[row], pairs[row] = (after[:, None] > after)[apart].sum(), apart.sum()
        return self.of_pairs(same, pairs)


def _cosines(rows: np.ndarray) -> np.ndarray:
    """The cosine of each row with each other, and minus infinity with itself, float64[rows, rows]."""
    lengths = np.sqrt((rows**2).sum(1, keepdims=True))
    unit = rows / np.where(lengths > 0, lengths, 1)
    found: np.ndarray = unit @ unit.T
    np.fill_diagonal(found, -np.inf)
    return found
