"""What was measured of a result beside its original, and what follows from it for accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.measure.chance import Standing
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.loss import Loss, loss_of
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.measure.stability import UNSTABLE
from modelopt.report import Latency
from modelopt.runtime.coverage import Coverage

_TOLERANCE = 1e-6
"""A limit such as 40 dB is 1 %, but for the last digits of its computation."""


def keeps(drop: float, limit: float) -> bool:
    """Whether a drop of accuracy is within a limit, both as fractions."""
    return drop <= limit * (1 + _TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        unchanged: The output is the input: there was nothing to measure.
        latency: None where it was not measured.
        accuracy: None where it was not measured.
        same_outputs: Verification found the outputs to be those of the input; accuracy was not measured then.
        blank: Why verification compared nothing although something changed; None where it compared.
        not_measured: Why nothing was measured: the contract is broken without that; None where something was.
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
    not_measured: str | None = None
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
        return "nothing" if found is None else found.what()

    def loss(self) -> Loss | None:
        """What was lost, by the score that says most; None where that is not known."""
        return None if self.accuracy is None else loss_of(self.accuracy)
