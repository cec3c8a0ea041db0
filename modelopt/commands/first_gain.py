"""Runs recipes in order of preference until one of them gains something over the input."""

from __future__ import annotations

import dataclasses
from functools import partial

import msgspec

from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine.optimize import Request, run
from modelopt.measure.speed import Verdict
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe.recipe import Recipe
from modelopt.report import Outcome, Report, Trial, next_step, verdict
from modelopt.search.recipe_search import Rescue
from modelopt.search.search_result import SearchResult

_NOT_SLOWER = "not-slower"
_MUST_GAIN = "must-gain"


def run_first_that_gains(request: Request, chosen: SearchResult, rescue: Rescue | None = None) -> Report:
    """Run the recipes until one gains something over the input; the last is the input itself, or all there is.

    A recipe that need not gain, but must not be slower, gives way to the input as well.
    """
    found, recipes = chosen, list(chosen.recipes)
    for number, recipe in enumerate(recipes, 1):
        request.progress("the result", 0, None)
        finish = partial(_finish, request, found, recipe, is_last=number == len(recipes))
        asked = dataclasses.replace(request, recipe=recipe, finish=finish)
        try:
            report = run(asked)
        except (Refused, WorkerDied) as error:
            if rescue is None or not error.is_of_result:
                raise
            return run_first_that_gains(request, rescue(asked, error))
        failed = _failed(report)
        if set(failed) == {_NOT_SLOWER}:
            recipes.append(_as_it_was(recipe))
        elif set(failed) != {_MUST_GAIN}:
            break
        found = _left_behind(found, report)
    return report


def _finish(request: Request, found: SearchResult, recipe: Recipe, report: Report, *, is_last: bool) -> Report:
    """Keep the report of a run, with what the search found, where no other recipe runs in the place of this one."""
    failed = _failed(report).keys()
    if failed == {_NOT_SLOWER} or (failed == {_MUST_GAIN} and not is_last):
        return report
    return request.finish(_with_search(report, _left_behind(found, report), recipe))


def _failed(report: Report) -> dict[str, str]:
    """What was found by the gates that stop the result, by their names."""
    return {gate.gate: gate.found for gate in report.gates if gate.stops}


def _left_behind(found: SearchResult, report: Report) -> SearchResult:
    """The search, where what it chose is no gain beside the input, as the report of its run says."""
    failed = _failed(report)
    if set(failed) not in ({_NOT_SLOWER}, {_MUST_GAIN}):
        return found
    (what,) = failed.values()
    trials = tuple(_left_out(trial, what) if trial.kept else trial for trial in found.trials)
    if _NOT_SLOWER in failed:
        return dataclasses.replace(found, trials=(*trials, _slower(report)))
    offenders = tuple(msgspec.structs.replace(one, restored=False) for one in found.offenders)
    return dataclasses.replace(found, trials=trials, offenders=offenders)


def _with_search(report: Report, found: SearchResult, recipe: Recipe) -> Report:
    """The report of a run of `recipe`, with what the search found."""
    said = {
        *report.notes,
        *((*report.accuracy.notes, *report.accuracy.warnings) if report.accuracy is not None else ()),
    }
    advice = [found.advice] if found.advice is not None and recipe is found.recipes[0] else []
    notes = (*report.notes, *(note for note in found.notes if note not in said), *advice)
    report = msgspec.structs.replace(
        report, trials=found.trials, offenders=found.offenders, pruning=found.pruning, notes=notes
    )
    return next_step.concluded(report)


def _slower(report: Report) -> Trial:
    """A run whose result is slower than its input, or may be, as something that was tried."""
    ratio = None if report.latency is None else report.latency.ratio
    rewrites = sum(result.rewrites for result in report.passes)
    outcome, reason = Outcome.NO_GAIN, "not shown to be as fast as the input"
    if ratio is None or ratio.verdict is Verdict.SLOWER:
        outcome, reason = Outcome.SLOWER, "slower than the input"
    return Trial(group=verdict.ALL, rewrites=rewrites, ratio=ratio, kept=False, outcome=outcome, reason=reason)


def _as_it_was(recipe: Recipe) -> Recipe:
    """The recipe that leaves the model as it was, but for an opset that was asked for."""
    asked = tuple(step for step in recipe.steps if isinstance(step, UpgradeOpset))
    return dataclasses.replace(recipe, steps=asked, gates=msgspec.structs.replace(recipe.gates, not_slower=False))


def _left_out(trial: Trial, found: str) -> Trial:
    """What was chosen, but is no gain beside the input."""
    reason = f"no gain beside the input: {found}"
    return msgspec.structs.replace(trial, kept=False, outcome=Outcome.NO_GAIN, reason=reason)
