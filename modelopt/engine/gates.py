"""The contract: what this run can judge of it, and what the reader should know of what it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.core.errors import InputError
from modelopt.engine import figure_gates, settings
from modelopt.engine.findings import Findings
from modelopt.recipe.recipe import BenchSpec, Recipe
from modelopt.report import PassResult

DEFAULT_MAX_DROP = 0.01
"""What accuracy may fall by where the user did not say it and there are data to measure it on."""


def require(recipe: Recipe) -> None:
    """Refuse a contract that this run could not judge, before it does the work.

    Raises:
        InputError: A gate needs a figure that the recipe does not measure, or cannot measure here.
    """
    if recipe.gates.min_speedup is not None:
        _require_timing(recipe, "--min-speedup")
    for gate, _ in figure_gates.asked(recipe.gates):
        _require_timing(recipe, f"--{gate.name}")
    if recipe.gates.require_verified and not recipe.verify:
        raise InputError("--require-verified needs the verification", hint="leave out --no-verify")
    if recipe.gates.max_drop is None:
        return
    compared = recipe.evaluate is not None or recipe.verify or recipe.bench is not None
    if not compared or not (settings.has_evidence(recipe) or settings.is_verified(recipe)):
        raise no_accuracy()
    if "max-abs-error" in settings.metrics_of(recipe):
        raise InputError(
            "max-abs-error is no share that a contract on accuracy (--max-drop) could bound",
            hint="--metric cosine, sqnr or argmax-agreement",
        )


def _require_timing(recipe: Recipe, flag: str) -> None:
    if recipe.bench is None:
        raise InputError(f"{flag} needs a benchmark", hint="leave out --no-bench")
    reason = settings.why_not_timed(recipe)
    if reason is not None:
        raise InputError(
            f"{flag} cannot be judged here",
            note=f"speed is {reason}",
            hint="leave it out, or run the command on the machine that the result is for",
        )


def no_accuracy() -> InputError:
    """The error that there is nothing to measure accuracy on."""
    return InputError(
        "--max-drop needs data to measure accuracy on",
        note="random inputs say nothing about accuracy",
        hint="give labelled data with --eval DATA",
    )


def unchecked(recipe: Recipe, results: Sequence[PassResult], findings: Findings) -> str | None:
    """A note where passes changed the outputs and no data say how much accuracy that costs; else None."""
    changed = any(result.rewrites and result.effect != Effect.EXACT.value for result in results)
    if not changed or (settings.has_evidence(recipe) and findings.accuracy is not None):
        return None
    given = [spec for spec in (recipe.calibration, recipe.evaluate) if spec is not None]
    reason = "random inputs are no evidence" if given else "no --calib or --eval"
    if settings.has_evidence(recipe):
        reason = "no outputs were compared"
    seen = findings.seen()
    measured = "" if seen is None else f" (on random inputs {seen})"
    return f"the {100 * DEFAULT_MAX_DROP:g} % contract was not checked: {reason}{measured}"


def measured_elsewhere(recipe: Recipe, findings: Findings) -> str | None:
    """A note on accuracy that was measured here where the result is for another machine; else None."""
    provider = (recipe.bench or BenchSpec()).provider
    target = settings.target_of(recipe)
    if findings.accuracy is None or targets.why_not_timed(target, provider) is None:
        return None
    there = target.kind.value
    return f"accuracy was measured with the kernels of this machine (provider {provider}), not with those of {there}"
