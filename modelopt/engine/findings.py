"""What was measured of a result beside its original, and what follows from it for accuracy."""

from __future__ import annotations

from dataclasses import dataclass

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
        found = self._decisive()
        return None if found is None else found[0]

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
        found = self._decisive()
        if found is None:
            return UNSTABLE if self.accuracy.unstable else NOTHING_COMPARED
        lost, score, where = found
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
        found = self._decisive()
        if found is None:
            return "nothing"
        _, score, where = found
        return _LOST.get(score.name, score.name) + where

    def _decisive(self) -> tuple[float, Score, str] | None:
        """What was lost, by which score, and at which output, in words; None where that is not known."""
        accuracy = self.accuracy
        if accuracy is None:
            return None
        found: list[tuple[float, Score, str]] = []
        for task in accuracy.tasks:
            if task.fall is None:
                return None
            found.append((task.fall, task.candidate, ""))
        if accuracy.named:
            for score in accuracy.fidelity:
                lost = lost_by(score)
                if lost is not None:
                    found.append((lost, score, ""))
        output = worst(accuracy.outputs)
        if output is not None and output.decisive is not None and output.drop is not None:
            where = f", output '{output.output}'" if len(accuracy.outputs) > 1 else ""
            found.append((output.drop, output.decisive, where))
        return max(found, key=lambda each: each[0]) if found else None
