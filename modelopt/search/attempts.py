"""Attempts at a quantized model: each is built, judged by the contract, and recorded as a trial of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelopt.core.changes import Skip
from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine import error_notes
from modelopt.engine.findings import keeps
from modelopt.passes.base import Pass
from modelopt.report import Outcome, Trial, verdict
from modelopt.search import crash_search
from modelopt.search.accuracy import Judgement
from modelopt.search.candidates import Candidate, Candidates
from modelopt.search.utility import Comparison

_PASSED_OVER = "it keeps the contract; fewer nodes in float do too"


@dataclass(frozen=True)
class Attempt:
    """A quantized model.

    Attributes:
        label: How reports call it.
        base: The float model that it is made of.
        step: The pass that quantizes.
        candidate: The model.
        judgement: How it compares with the input; None where the contract does not ask.
    """

    label: str
    base: Candidate
    step: Any
    candidate: Candidate
    judgement: Judgement | None

    @property
    def drop(self) -> float:
        """How much accuracy it loses; infinite where that is not known."""
        return math.inf if self.judgement is None else self.judgement.drop

    @property
    def fails(self) -> bool:
        """Whether onnxruntime crashes on it, or does not load it."""
        return self.judgement is not None and self.judgement.does_not_run is not None


def within_contract(found: Judgement, limit: float) -> tuple[Outcome, str]:
    """Whether a model keeps the contract by itself, before it is compared with others, and the reason as one clause.

    Args:
        found: How it compares with the input.
        limit: How much accuracy may fall, as a fraction.

    Returns:
        `Outcome.SURPASSED` where it keeps the contract: it becomes `Outcome.KEPT` where no other is better.
    """
    if found.does_not_run is not None:
        return Outcome.FAILED, f"it does not run: {found.does_not_run}"
    if found.no_evidence is not None:
        return Outcome.NO_EVIDENCE, f"accuracy cannot be judged: {found.no_evidence}"
    if keeps(found.drop, limit):
        return Outcome.SURPASSED, _PASSED_OVER
    fell = f"fell by {found.drop:.2%}" if found.drop < math.inf else "is lost"
    return Outcome.INACCURATE, f"accuracy {fell}: {limit:.2%} is allowed"


@dataclass
class Attempts:
    """Makes attempts and remembers them.

    Attributes:
        candidates: Builds and judges models.
        limit: How much accuracy may fall; None where the contract does not ask.
        trials: What was tried, in order.
        notes: What the reader should know where the data say nothing.
        calibrated: Whether calibration data had a part in one of them.
    """

    candidates: Candidates
    limit: float | None
    trials: list[Trial] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    calibrated: bool = False
    _digests: set[str] = field(default_factory=set)

    def make(
        self, base: Candidate, step: Pass, *, before: Pass | None = None, label: str | None = None
    ) -> Attempt | None:
        """Build and judge; None where nothing was quantized, it cannot be made, or another attempt made the same.

        Args:
            base: The float model.
            step: The pass that quantizes it.
            before: The last pass that made `base`, where that belongs to the attempt.
            label: How reports call the attempt; None names it by its passes.

        Raises:
            ModeloptError: The first attempt cannot be made.
        """
        label = label or (str(step) if before is None else f"{before} + {step}")
        self.candidates.request.progress(f"trial {len(self.trials) + 1}: {label}", len(self.trials), None)
        try:
            candidate = self.candidates.build(base, (step,))
        except (Refused, WorkerDied) as error:
            if not self.trials:
                raise
            self._record(label, Outcome.FAILED, f"it could not be made: {error.fact}")
            return None
        if not candidate.rewrites:
            reason = verdict.nothing_to_do([skip.reason for skip in candidate.skipped])
            self._record(label, Outcome.NOTHING_TO_DO, f"nothing to do: {reason}", candidate)
            return None
        self.calibrated |= step.calibrates() or (before is not None and before.calibrates())
        digest = self.candidates.digest(candidate)
        if digest in self._digests:
            self.candidates.discard(candidate)
            return None
        self._digests.add(digest)
        if self.limit is None:
            self._record(label, Outcome.SURPASSED, _PASSED_OVER, candidate)
            return Attempt(label, base, step, candidate, None)
        found = self._judge(candidate, label)
        drop = None if math.isinf(found.drop) else found.drop
        self._record(label, *within_contract(found, self.limit), candidate, drop)
        self.notes.update(dict.fromkeys(found.notes))
        return Attempt(label, base, step, candidate, found)

    def keeps(self, attempt: Attempt) -> bool:
        """Whether an attempt keeps the contract."""
        return self.limit is None or keeps(attempt.drop, self.limit)

    def record_comparison(self, attempt: Attempt, comparison: Comparison) -> None:
        """Say in its trial how an attempt compares with the best before it; that one's trial is kept no longer."""
        for i, trial in enumerate(self.trials):
            if trial.group == attempt.label:
                self.trials[i] = msgspec.structs.replace(
                    trial,
                    outcome=comparison.outcome,
                    reason=comparison.reason,
                    ratio=comparison.ratio,
                    on_one_thread=comparison.on_one_thread,
                    kept=comparison.is_better,
                )
            elif comparison.is_better and trial.kept:
                reason = f"{attempt.label} is better: {comparison.reason}"
                self.trials[i] = msgspec.structs.replace(trial, kept=False, outcome=Outcome.SURPASSED, reason=reason)

    def left_out_by(self, step: Pass) -> tuple[Skip, ...]:
        """The refusals of a step that quantized nothing."""
        found = (t for t in self.trials if t.group == str(step) and t.outcome is Outcome.NOTHING_TO_DO)
        return next((trial.skipped for trial in found), ())

    def pass_over(self, attempt: Attempt, outcome: Outcome, reason: str) -> None:
        """Say in an attempt's trial why it is not compared with the best model."""
        self.trials = [
            msgspec.structs.replace(trial, outcome=outcome, reason=reason) if trial.group == attempt.label else trial
            for trial in self.trials
        ]

    def _record(
        self, label: str, outcome: Outcome, reason: str, candidate: Candidate | None = None, drop: float | None = None
    ) -> None:
        rewrites, skipped = (0, ()) if candidate is None else (candidate.rewrites, candidate.skipped)
        trial = Trial(
            group=label, rewrites=rewrites, drop=drop, kept=False, outcome=outcome, reason=reason, skipped=skipped
        )
        self.trials.append(trial)

    def _judge(self, candidate: Candidate, label: str) -> Judgement:
        try:
            with error_notes.explained(self.candidates.input.path, [label]):
                return self.candidates.judge.judge(candidate.path)
        except WorkerDied as died:
            if not died.is_of_result or died.reason != "signal":
                raise
            self.candidates.renew_worker()
            return Judgement(math.inf, does_not_run=crash_search.why_failed(died))
