"""Finds out which groups of passes pay on this machine: each is kept only where the model gets measurably faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from modelopt.core.errors import InputError
from modelopt.engine.request import Request
from modelopt.measure.speed import Ratio, Verdict
from modelopt.recipe.recipe import Step, UntilStable
from modelopt.report import Outcome, Trial, verdict
from modelopt.search.candidates import Candidate, opened
from modelopt.search.search_result import SearchResult


def keep_if_faster(request: Request, groups: Sequence[Step]) -> SearchResult:
    """The recipe with those of `groups` behind its steps that make the model faster, and what was measured.

    The groups are tried in order. Each is applied to the best model so far and timed beside it, in interleaved
    rounds as the recipe's bench section says; it stays only where the whole confidence interval lies on the fast
    side. The result is a recipe like any other: `engine.optimize.run` applies, verifies and stores it.

    Raises:
        InputError: The recipe does not measure.
        ModeloptError: As `engine.optimize.run`.
    """
    if request.recipe.bench is None:
        raise InputError(
            "nothing can be kept for being faster without a benchmark",
            hint="leave out --no-bench, or give the recipe a section bench",
        )
    with opened(request) as candidates:
        best = candidates.build(candidates.input, request.recipe.steps)
        trials = []
        for group in groups:
            candidate = candidates.build(best, [group])
            ratio = candidates.time(best, candidate).ratio if candidate.rewrites else None
            outcome, reason = _outcome(candidate, ratio)
            kept = outcome is Outcome.KEPT
            # A group is called by its first pass; those behind it clean up.
            label = str(group.passes[0] if isinstance(group, UntilStable) else group)
            trials.append(
                Trial(group=label, rewrites=candidate.rewrites, ratio=ratio, kept=kept, outcome=outcome, reason=reason)
            )
            candidates.discard(best if kept else candidate)
            best = candidate if kept else best
        recipe = dataclasses.replace(request.recipe, steps=best.steps)
        return SearchResult((recipe,), tuple(trials))


_OUTCOMES = {
    Verdict.FASTER: (Outcome.KEPT, "faster"),
    Verdict.SLOWER: (Outcome.SLOWER, "slower than without it"),
    Verdict.NO_DIFFERENCE: (Outcome.NO_GAIN, "no measurable gain in speed"),
    Verdict.UNDECIDED: (Outcome.NO_GAIN, "not timed enough to say that it is faster"),
}


def _outcome(candidate: Candidate, ratio: Ratio | None) -> tuple[Outcome, str]:
    if ratio is not None:
        return _OUTCOMES[ratio.verdict]
    nothing = verdict.nothing_to_do([skip.reason for skip in candidate.skipped])
    return Outcome.NOTHING_TO_DO, f"nothing to do: {nothing}"
