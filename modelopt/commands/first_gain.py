"""Runs recipes in order of preference until one of them gains something over the input."""

from __future__ import annotations

import dataclasses

import msgspec

from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine.optimize import Request, run
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe.recipe import Recipe
from modelopt.report import Outcome, Report, Trial, verdict
from modelopt.search.recipe_search import Rescue
from modelopt.search.search_result import SearchResult

_NOT_SLOWER = "not-slower"
_MUST_GAIN = "must-gain"


def run_first_that_gains(request: Request, chosen: SearchResult, rescue: Rescue | None = None) -> Report:
    """Run the recipes until one gains something over the input; the last is the input itself, or all there is.

    A recipe that need not gain, but must not be slower, gives way to the input as well.
    """
    trials, offenders = chosen.trials, chosen.offenders
    recipes = list(chosen.recipes)
    for recipe in recipes:
        asked = dataclasses.replace(request, recipe=recipe)
        try:
            report = run(asked)
        except (Refused, WorkerDied) as error:
            if rescue is None or not error.is_of_result:
                raise
            return run_first_that_gains(request, rescue(asked, error))
        failed = {gate.gate: gate.found for gate in report.gates if gate.passed is False}
        if set(failed) == {_NOT_SLOWER}:
            left_out = [_left_out(trial, failed[_NOT_SLOWER]) if trial.kept else trial for trial in trials]
            trials = (*left_out, _slower(report))
            recipes.append(_as_it_was(recipe))
            continue
        if set(failed) != {_MUST_GAIN}:
            break
        trials = tuple(_left_out(trial, failed[_MUST_GAIN]) if trial.kept else trial for trial in trials)
        offenders = tuple(msgspec.structs.replace(one, restored=False) for one in offenders)
    said = {
        *report.notes,
        *((*report.accuracy.notes, *report.accuracy.warnings) if report.accuracy is not None else ()),
    }
    advice = [chosen.advice] if chosen.advice is not None and recipe is chosen.recipes[0] else []
    notes = (*report.notes, *(note for note in chosen.notes if note not in said), *advice)
    report = msgspec.structs.replace(report, trials=trials, offenders=offenders, notes=notes)
    return msgspec.structs.replace(report, verdict=verdict.of(report))


def _slower(report: Report) -> Trial:
    """A run whose result is slower than its input, as something that was tried."""
    ratio = None if report.latency is None else report.latency.ratio
    rewrites = sum(result.rewrites for result in report.passes)
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
