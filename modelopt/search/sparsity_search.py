"""Finds the largest sparsity with which a model keeps the contract on accuracy, in steps of 5 %."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec

from modelopt.engine.request import Request
from modelopt.passes.prune_magnitude import PruneMagnitude
from modelopt.report import Outcome
from modelopt.search.attempts import Attempt, Attempts
from modelopt.search.candidates import Candidate, Candidates, opened
from modelopt.search.search_result import SearchResult

_LEVELS = 20
"""The sparsities that are tried are multiples of one over this: a guess."""


def largest_sparsity(request: Request) -> SearchResult:
    """The recipe for `request` with the largest sparsity that keeps the contract; without the pass where none does.

    Args:
        request: What the user asked for; the last step of its recipe is prune-magnitude, whose sparsity is chosen.

    Raises:
        ModeloptError: As `engine.optimize.run`.
    """
    with opened(request) as candidates:
        return _Search(candidates).run()


def bisected(levels: int, keeps: Callable[[int], bool]) -> int:
    """The largest level between 0 and `levels`, both not tried, that keeps the contract; 0 where none does.

    Where one does not keep it, larger ones are taken not to keep it either: about log2(levels) are tried.
    """
    low, high = 0, levels
    while high - low > 1:
        middle = (low + high) // 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low


class _Search:
    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.recipe = candidates.request.recipe
        last = self.recipe.steps[-1]
        if not isinstance(last, PruneMagnitude):
            raise TypeError("the last step of the recipe is not prune-magnitude")
        self.asked = last
        self.attempts = Attempts(candidates, self.recipe.gates.max_drop)
        self.best: Attempt | None = None
        self.tells_nothing = False

    def run(self) -> SearchResult:
        before = self.recipe.steps[:-1]
        base = self.candidates.build(self.candidates.input, before) if before else self.candidates.input
        bisected(_LEVELS, lambda level: self._keeps(base, level / _LEVELS))
        self._explain()
        steps = base.steps if self.best is None else self.best.candidate.steps
        judged = any(trial.drop is not None for trial in self.attempts.trials)
        notes = self.candidates.data.notes_for(calibrated=self.attempts.calibrated, compared=judged)
        return SearchResult(
            (dataclasses.replace(self.recipe, steps=steps),),
            tuple(self.attempts.trials),
            notes=(*notes, *self.attempts.notes),
        )

    def _keeps(self, base: Candidate, sparsity: float) -> bool:
        """Whether the model with this sparsity keeps the contract; the last that does is the best."""
        if self.tells_nothing:
            return False
        attempt = self.attempts.make(base, dataclasses.replace(self.asked, sparsity=sparsity))
        if attempt is None:
            return self.attempts.trials[-1].outcome is Outcome.NOTHING_TO_DO  # so many weights are zero already
        if attempt.judgement is not None and attempt.judgement.no_evidence is not None:
            self.tells_nothing = True  # what the data do not say of one sparsity they say of none
        keeps = self.attempts.keeps(attempt)
        self.best = attempt if keeps else self.best
        return keeps

    def _explain(self) -> None:
        """Say in the trials which sparsity was kept, and why smaller ones were not."""
        for place, trial in enumerate(self.attempts.trials):
            if trial.outcome is not Outcome.SURPASSED:
                continue
            kept = self.best is not None and trial.group == self.best.label
            self.attempts.trials[place] = msgspec.structs.replace(
                trial,
                kept=kept,
                outcome=Outcome.KEPT if kept else Outcome.SURPASSED,
                reason="the most zeros that keep the contract" if kept else "it keeps the contract; more zeros do too",
            )
