"""How much accuracy a result lost, by the score that says most, with the interval of that loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from modelopt.measure.evaluate import Accuracy
from modelopt.measure.metric import Score
from modelopt.measure.outputs import lost_by, worst

_LOST = {
    "argmax-agreement": "classes that differ from the original's",
    "sequence-agreement": "sequences that differ from the original's",
    "threshold-agreement": "yes-or-no answers that differ from the original's",
    "rank-agreement": "pairs in another order than the original's",
    "neighbor-agreement": "nearness of the nearest neighbors that is lost",
    "similarity-agreement": "pairs in another order of similarity",
    "sample-agreement": "samples that are off by half of what the answers vary",
    "agreement": "values that differ from the original's",
    "detection-agreement": "detections that differ from the original's",
    "mae": "rise of mae relative to the original's",
    "rmse": "rise of rmse relative to the original's",
    "cosine": "1 - cosine with the original's",
    "relative-error": "error relative to the original's size",
    "sqnr": "error relative to the original's size",
}
"""What is lost, by the name of the score."""


class Loss(NamedTuple):
    """How much accuracy fell, by the score that fell most.

    Attributes:
        lost: The fall, as a fraction.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        score: The score of the result.
        where: The output that it is of, as the end of a clause; empty where that need not be said.
    """

    lost: float
    low: float | None
    high: float | None
    score: Score
    where: str

    def what(self) -> str:
        """What the loss is a figure of."""
        return _LOST.get(self.score.name, self.score.name) + self.where


def loss_of(accuracy: Accuracy) -> Loss | None:
    """What was lost, by the score that says most; None where that is not known."""
    found: list[Loss] = []
    for task in accuracy.tasks:
        if task.fall is None or task.delta is None:
            return None
        ends = [None if end is None else task.worse(end) for end in (task.delta.low, task.delta.high)]
        found.append(_between(task.fall, ends, task.candidate, ""))
    if accuracy.named:
        found += [each for score in accuracy.fidelity if (each := _of_score(score, "")) is not None]
    output = worst(accuracy.outputs)
    if output is not None and output.decisive is not None:
        where = f", output '{output.output}'" if len(accuracy.outputs) > 1 else ""
        each = _of_score(output.decisive, where)
        found += [] if each is None else [each._replace(lost=min(1.0, each.lost))]
    return max(found, key=lambda each: each.lost) if found else None


def _of_score(score: Score, where: str) -> Loss | None:
    """What a score of the result beside the original says was lost; None where nothing was compared."""
    lost = lost_by(score)
    if lost is None:
        return None
    if score.value is None and not lost:  # no noise at all: the outputs are the same
        return Loss(lost, 0.0, 0.0, score, where)
    ends = [None if end is None else msgspec.structs.replace(score, value=end) for end in (score.low, score.high)]
    return _between(lost, tuple(None if each is None else lost_by(each) for each in ends), score, where)


def _between(lost: float, ends: Sequence[float | None], score: Score, where: str) -> Loss:
    """A loss between two ends, in whichever order they come; without them where one is not known."""
    known = [end for end in ends if end is not None and math.isfinite(end)]
    low, high = (min(known), max(known)) if len(known) == len(ends) else (None, None)
    return Loss(lost, low, high, score, where)
