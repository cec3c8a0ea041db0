"""Finds out which groups of passes pay on this machine: each is kept only where the model gets measurably faster."""

from __future__ import annotations

from collections.abc import Sequence

from modelopt.core.errors import InputError
from modelopt.engine import optimize
from modelopt.measure.speed import Verdict
from modelopt.recipe.recipe import Step
from modelopt.report import Outcome, Trial, verdict
from modelopt.search.candidates import opened, with_steps
from modelopt.search.chosen import Chosen


def keep_if_faster(request: optimize.Request, groups: Sequence[Step]) -> Chosen:
    """The recipe with those of `groups` behind its steps that make the model faster, and what was measured.

    The groups are tried in order. Each is applied to the best model so far and timed beside it, in interleaved
    rounds as the recipe's bench section says; it stays only where the whole confidence interval lies on the fast
    side. What is chosen is a recipe like any other: `engine.run` applies, verifies and stores it.

    Raises:
        InputError: The recipe does not measure.
        ModeloptError: As `engine.run`.
    """
    if request.recipe.bench is None:
        raise InputError(
            "nothing can be kept for being faster without a benchmark",
            hint="leave out --no-bench, or give the recipe a section bench",
        )
    with opened(request) as shop:
        best = shop.build(shop.input, request.recipe.steps)
        trials = []
        for group in groups:
            built = shop.build(best, [group])
            if not built.rewrites:
                reason = f"nothing to do: {verdict.nothing_to_do([skip.reason for skip in built.skipped])}"
                nothing = Outcome.NOTHING_TO_DO
                trials.append(Trial(group=_label(group), rewrites=0, kept=False, outcome=nothing, reason=reason))
                shop.discard(built)
                continue
            ratio = shop.time(best, built).ratio
            kept = ratio.verdict is Verdict.FASTER
            outcome, reason = _OUTCOMES[ratio.verdict]
            label, rewrites = _label(group), built.rewrites
            trials.append(Trial(group=label, rewrites=rewrites, ratio=ratio, kept=kept, outcome=outcome, reason=reason))
            shop.discard(best if kept else built)
            best = built if kept else best
        return Chosen((with_steps(request.recipe, best),), tuple(trials))


_OUTCOMES = {
    Verdict.FASTER: (Outcome.KEPT, "faster"),
    Verdict.SLOWER: (Outcome.SLOWER, "slower than without it"),
    Verdict.NO_DIFFERENCE: (Outcome.NO_GAIN, "no measurable gain in speed"),
    Verdict.UNDECIDED: (Outcome.NO_GAIN, "not timed enough to say that it is faster"),
}


def _label(group: Step) -> str:
    """What a group is called: its first pass; those behind it clean up."""
    return str(group.passes[0] if hasattr(group, "passes") else group)
