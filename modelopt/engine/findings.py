"""What was measured of a result beside its original, and what follows from it for accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from modelopt.measure.chance import Standing
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.metric import NOTHING_COMPARED, Score
from modelopt.measure.outputs import lost_by, worst
from modelopt.measure.stability import UNSTABLE
from modelopt.report import Latency
from modelopt.runtime.coverage import Coverage

_LOST = {
    "argmax-agreement": "classes that differ from the original's",
    "sequence-agreement": "sequences that differ from the original's",
    "threshold-agreement": "yes-or-no answers that differ from the original's",
    "rank-agreement": "pairs in another order than the original's",
    "neighbor-agreement": "nearness of the nearest neighbors that is lost",
    "similarity-agreement": "pairs in another order of similarity",
    "sample-agreement": "samples that are off by half of what the answers vary",
    "agreement": "values that differ from the original's",
    "cosine": "1 - cosine with the original's",
    "relative-error": "error relative to the original's size",
    "sqnr": "error relative to the original's size",
}
"""What is lost, by the name of the score."""

_TOLERANCE = 1e-6
"""A limit such as 40 dB is 1 %, but for the last digits of its computation."""


def keeps(drop: float, limit: float) -> bool:
    """Whether a drop of accuracy is within a limit, both as fractions."""
    return drop <= limit * (1 + _TOLERANCE)


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


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        unchanged: The output is the input: there was nothing to measure.
        latency: None where it was not measured.
        accuracy: None where it was not measured.
        same_outputs: Verification found the outputs to be those of the input; accuracy was not measured then.
        blank: Why verification compared nothing although something changed; None where it compared.
        not_timed: Why latency was not measured although the recipe asks for it; None where it was.
        guesses: What of the images' preprocessing was guessed.
        not_loaded: What the reader should know of a result that onnxruntime does not load; None where it loads it.
        coverage: What computes in integers; None where that was not profiled.
    """

    unchanged: bool
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    same_outputs: bool = False
    blank: str | None = None
    not_timed: str | None = None
    guesses: tuple[str, ...] = ()
    not_loaded: str | None = None
    coverage: Coverage | None = None

    def drop(self) -> float | None:
        """How much accuracy fell, as a fraction; None if unknown: it was not measured, or nothing was compared.

        That is the fall of the task's metric; without labels what the output that lost most lost, each judged by what
        it stands for; with a metric over all outputs 1 minus its value, or the relative error for ``sqnr``. Of several
        metrics that which fell most counts.
        """
        found = self.loss()
        return None if found is None else found.lost

    def no_evidence(self) -> str | None:
        """Why what was measured is no evidence about accuracy; None where it is, or nothing was measured."""
        if self.accuracy is None:
            return self.blank
        if self.drop() is None:
            return UNSTABLE if self.accuracy.unstable else "nothing was compared"
        chance = self.accuracy.tasks[0].chance if self.accuracy.tasks else None
        return "the original scores at chance" if chance and chance.standing is Standing.AT_CHANCE else None

    def seen(self) -> str | None:
        """How far the outputs are from the original's, in words; None where that was not measured."""
        if self.accuracy is None:
            return None
        found = self.loss()
        if found is None:
            return UNSTABLE if self.accuracy.unstable else NOTHING_COMPARED
        lost, score, where = found.lost, found.score, found.where
        errors = [each.error.value for each in self.accuracy.outputs if each.error is not None]
        if not lost and not any(errors) and (errors or score.value is None):
            return "the outputs are the same"
        if score.name.endswith("agreement") and score.unit == "share":
            return f"{round(lost * score.n):,} of {score.n:,} answers changed{where}"
        if score.unit == "dB" or score.name == "relative-error":
            return f"the error is {lost:.2%} of the original's size{where}"
        return f"{score.name} with the original's outputs is {score.value:.4g}{where}"

    def drop_of(self) -> str:
        """What `drop` is a figure of."""
        found = self.loss()
        return "nothing" if found is None else _LOST.get(found.score.name, found.score.name) + found.where

    def loss(self) -> Loss | None:
        """What was lost, by the score that says most; None where that is not known."""
        accuracy = self.accuracy
        if accuracy is None:
            return None
        found: list[Loss] = []
        for task in accuracy.tasks:
            if task.fall is None or task.delta is None:
                return None
            sign = -1 if task.candidate.higher_is_better else 1
            found.append(_between(task.fall, (task.delta.low, task.delta.high), sign, task.candidate, ""))
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
    return _between(lost, tuple(None if each is None else lost_by(each) for each in ends), 1, score, where)


def _between(lost: float, ends: Sequence[float | None], sign: int, score: Score, where: str) -> Loss:
    """A loss between two ends, in whichever order they come; without them where one is not known."""
    known = [sign * end for end in ends if end is not None and math.isfinite(end)]
    low, high = (min(known), max(known)) if len(known) == len(ends) else (None, None)
    return Loss(lost, low, high, score, where)
