"""What was measured of a result beside its original, and what follows from it for accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelopt.measure.chance import Standing
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.fidelity import EXACT
from modelopt.measure.metric import NOTHING_COMPARED, Score
from modelopt.report import Latency


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        unchanged: The output is the input: there was nothing to measure.
        latency: None where it was not measured.
        accuracy: None where it was not measured.
        class_scores: See `Data`.
        same_outputs: Verification found the outputs to be those of the input; accuracy was not measured then.
        blank: The outputs hold no element: verification had nothing to compare.
        not_timed: Why latency was not measured although the recipe asks for it; None where it was.
        guesses: What of the images' preprocessing was guessed.
    """

    unchanged: bool
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    class_scores: bool = True
    same_outputs: bool = False
    blank: bool = False
    not_timed: str | None = None
    guesses: tuple[str, ...] = ()

    def drop(self) -> float | None:
        """How much accuracy fell, as a fraction; None if unknown: it was not measured, or nothing was compared.

        That is the fall of the task's metric; without labels the share of answers whose class changed, or, where the
        answers are no classes, 1 - cosine of the least similar output; with ``--metric sqnr`` the relative error.
        """
        if self.accuracy is None:
            return None
        if self.accuracy.candidate is not None:
            delta = self.accuracy.delta
            fall = None if delta is None else -delta.point
            return fall if fall is None or self.accuracy.candidate.higher_is_better else -fall
        same = self._alike()
        if same is not None and same.name == "sqnr":
            return relative_error(same)
        return None if same is None or same.value is None else 1 - same.value

    def no_evidence(self) -> str | None:
        """Why what was measured is no evidence about accuracy; None where it is, or nothing was measured."""
        if self.accuracy is None:
            return "nothing was compared" if self.blank else None
        if self.drop() is None:
            return "nothing was compared"
        chance = self.accuracy.chance
        return "the original scores at chance" if chance and chance.standing is Standing.AT_CHANCE else None

    def seen(self) -> str | None:
        """How far the outputs are from the original's, in words; None where that was not measured."""
        if self.accuracy is None:
            return None
        same = self._alike()
        if same is None or same.value is None:
            blank = not any(map(_compared, self.accuracy.fidelity))
            return NOTHING_COMPARED if blank else "the outputs are the same" if self.drop() == 0 else None
        if same.unit == "share":
            return f"{round((1 - same.value) * same.n):,} of {same.n:,} answers changed"
        return f"{same.name} with the original's outputs is {same.value:.4g}"

    def drop_of(self) -> str:
        """What `drop` is a figure of."""
        if self.accuracy is not None and self.accuracy.candidate is not None:
            return self.accuracy.candidate.name
        same = self._alike()
        if same is not None and same.name == "sqnr":
            return "error relative to the original's outputs"
        if same is None or same.name == "cosine":
            return "1 - cosine with the original's outputs"
        return "answers that differ from the original's"

    def _alike(self) -> Score | None:
        """How alike the outputs are, by the measure that suits them and compared something."""
        scores = {score.name: score for score in self.accuracy.fidelity} if self.accuracy is not None else {}
        order = ("argmax-agreement", "cosine", "agreement", "sqnr")
        if not self.class_scores:
            order = ("cosine", "agreement", "argmax-agreement", "sqnr")
        return next((scores[name] for name in order if name in scores and _compared(scores[name])), None)


def _compared(found: Score) -> bool:
    """Whether a score stands for a comparison; one that found outputs to be the same may have no value."""
    return found.value is not None or not (found.note or "").startswith(NOTHING_COMPARED)


def relative_error(sqnr: Score) -> float:
    """The root of noise over signal: 0 without noise, infinite where there was only noise or nothing was compared."""
    if sqnr.value is not None:
        return float(10 ** (-sqnr.value / 20))
    return 0.0 if (sqnr.note or "").startswith(EXACT) else math.inf
