"""Whether accuracy fell by no more than a limit, judged on the interval of the loss."""

from __future__ import annotations

from modelopt.engine import evidence, gates
from modelopt.engine.bounds import at_most
from modelopt.engine.findings import Findings, keeps
from modelopt.measure.loss import Loss
from modelopt.report import GateOutcome, GateResult


def judged(most: float, findings: Findings) -> tuple[GateResult, bool]:
    """Judge how much accuracy fell.

    Args:
        most: How much it may fall, as a fraction.
        findings: What was measured.

    Returns:
        The gate, and whether the loss on the samples at hand is within the limit, its interval aside.

    Raises:
        InputError: Nothing was measured.
    """
    limit = f"{most:.2%}"
    if findings.unchanged or findings.same_outputs:
        why = "nothing changed" if findings.unchanged else "the outputs are the same"
        return _gate(limit, f"0 ({why})", GateOutcome.PASSED), True
    if findings.accuracy is None and findings.blank is None:
        raise gates.no_accuracy()
    loss, reason = findings.loss(), findings.no_evidence()
    if loss is None or reason is not None:
        shown = [] if loss is None else [f"{_percent(loss.lost)} ({findings.drop_of()})"]
        found = ", but ".join(filter(None, (*shown, reason)))
        return _gate(limit, found, GateOutcome.FAILED, _better_data(findings)), False
    return _judged_loss(most, limit, loss, findings), keeps(loss.lost, most)


def _judged_loss(most: float, limit: str, loss: Loss, findings: Findings) -> GateResult:
    between = "" if loss.low is None or loss.high is None else f", {_percent(loss.low)} to {_percent(loss.high)}"
    found = f"{_percent(loss.lost)} ({findings.drop_of()}{between})"
    outcome = at_most(loss.low, loss.high, most, within=keeps)
    return _gate(limit, found, outcome, _more_samples(most, loss) if outcome is GateOutcome.INCONCLUSIVE else None)


def _more_samples(most: float, loss: Loss) -> str:
    """What would decide whether a loss is within its limit."""
    n = loss.score.n
    if loss.low is None or loss.high is None:
        return "one sample shows no spread: give more" if n == 1 else f"{n:,} samples show no spread: give more"
    half = max(loss.high - loss.lost, loss.lost - loss.low)
    far = loss.high - loss.lost if keeps(loss.lost, most) else loss.lost - loss.low
    is_difference = loss.score.unit == "share" and not loss.score.name.endswith("agreement")
    if is_difference:
        needed = evidence.differing_needed(loss.lost, far, n, most)
    else:
        needed = evidence.samples_needed(loss.lost, far, n, most, share=loss.score.unit == "share")
    told = f"{n:,} samples resolve {100 * half:.2g} points"
    if needed is None:
        return f"{told}; what was lost is at its limit, and more samples will hardly decide"
    return f"{told}; {100 * most:g} % needs about {needed:,}"


def _percent(lost: float) -> str:
    return f"{round(lost, 6) + 0.0:.2%}"


def _better_data(findings: Findings) -> str:
    """What the user may do where the data say nothing about accuracy."""
    if findings.accuracy is None or findings.drop() is None:
        return "give inputs on which the model has something to answer: --eval DATA"
    if findings.guesses:
        guessed = ",".join(findings.guesses)
        return f"say how the model's images were prepared, which was guessed: --preprocess {guessed}"
    return "check that inputs and labels are those of the model: --eval DATA, --labels FILE, --preprocess"


def _gate(limit: str, found: str, outcome: GateOutcome, hint: str | None = None) -> GateResult:
    return GateResult(gate="max-drop", limit=limit, found=found, outcome=outcome, hint=hint)
