"""The opset that a run raises for a fusion: notes for the report, and the recipe that does not raise it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from modelopt.core.errors import VerificationFailed
from modelopt.recipe.pipelines import RAISE
from modelopt.recipe.recipe import Recipe, Step, UntilStable
from modelopt.report import PassResult


def notes(results: Sequence[PassResult]) -> Iterator[str]:
    """Notes on a conversion that nobody asked for, and on one that failed."""
    mine = [result for result in results if result.step == RAISE]
    for result in mine:
        if result.rewrites:
            before, after, count = (result.facts[key] for key in ("opset_before", "opset_after", "fusions"))
            needed = "1 fusion needs it" if count == 1 else f"{count} fusions need it"
            yield f"raised from opset {before} to {after}: {needed} (not so with --keep-opset)"
    yield from dict.fromkeys(f"not raised to {skip.reason}" for result in mine for skip in result.skipped)


def undone(failure: VerificationFailed) -> str:
    """The note on a conversion that was verified and found wrong."""
    found = failure.note or failure.fact
    return f"the opset stays: the model converted to a later one computes something else ({found})"


def without(recipe: Recipe) -> Recipe:
    """The recipe that leaves the opset as it is."""
    steps: list[Step] = []
    for step in recipe.steps:
        if isinstance(step, UntilStable):
            steps.append(UntilStable(tuple(one for one in step.passes if one.name != RAISE)))
        elif step.name != RAISE:
            steps.append(step)
    return dataclasses.replace(recipe, steps=tuple(steps))
