"""Metrics without labels: how often the candidate gives the same class, token or value as the reference."""

from __future__ import annotations

import numpy as np

from modelopt.measure.fidelity import Fidelity
from modelopt.measure.metric import (
    NOTHING_COMPARED,
    Outputs,
    Score,
    Unfit,
    is_float,
    nonfinite_mismatch,
)

_CLASSES = range(2, 100_001)


class _Share(Fidelity):
    """The share of items that are equal in both models."""

    unit = "share"
    higher_is_better = True

    def score(self) -> Score:
        """See `Metric.score`."""
        if not self._tally.n:
            return self.made(None, n=0, note=NOTHING_COMPARED)
        return self.made(self._tally.units.mean, self._tally.share_interval(), n=self._tally.n)


class ArgmaxAgreement(_Share):
    """The share of rows of class scores whose highest class is the same in both models."""

    name = "argmax-agreement"
    _position: int | None = None

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`; rows of a sequence are one unit, rows of a batch are independent."""
        position = class_scores(reference) if self._position is None else self._position
        if position is None or not _are_scores(reference[position]):
            raise Unfit(
                "no output looks like class scores",
                note="wanted: floats with at most 3 axes, the last of 2 to 100000 classes",
                hint="choose another --metric",
            )
        self._position = position
        same = _same_choices(reference[position], candidate[position])
        if same.size:
            self._tally.add(same, together=reference[position].ndim > 2)
        return bool(same.size)


class Agreement(_Share):
    """The share of equal elements in outputs that are not floating-point numbers: classes, tokens, masks, strings."""

    name = "agreement"

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`."""
        found = [
            np.ravel(a == b) if a.shape == b.shape else np.zeros(max(a.size, b.size))
            for a, b in zip(reference, candidate, strict=True)
            if not is_float(a)
        ]
        if not found:
            raise Unfit("all outputs are floating-point numbers", hint="--metric cosine compares these")
        items = np.concatenate(found).astype(np.float64)
        if items.size:
            self._tally.add(items, together=True)
        return bool(items.size)


def class_scores(outputs: Outputs) -> int | None:
    """The position of the first output that looks like class scores, with rows or without, else None."""
    return next((position for position, out in enumerate(outputs) if _are_scores(out)), None)


def _are_scores(output: np.ndarray) -> bool:
    return is_float(output) and 1 <= output.ndim <= 3 and output.shape[-1] in _CLASSES


def _same_choices(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each row of scores 1 where the highest class is the same, else 0; rows without finite scores are left out."""
    if a.shape != b.shape:
        return np.zeros(max(a.size // a.shape[-1], b.size // max(1, b.shape[-1] if b.ndim else 1)))
    rows, others = (values.reshape(-1, a.shape[-1]) for values in (a, b))
    kept = (np.isfinite(rows) | np.isfinite(others) | nonfinite_mismatch(rows, others)).any(axis=1)
    same = (_highest(rows) == _highest(others)) & (np.isnan(rows) == np.isnan(others)).all(axis=1)
    found: np.ndarray = same[kept].astype(np.float64)
    return found


def _highest(rows: np.ndarray) -> np.ndarray:
    """The class of each row that scores highest; NaN is no score."""
    found: np.ndarray = np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    return found
