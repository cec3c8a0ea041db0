"""What a run writes: its result, or the input where the result would be none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelopt import graph, io
from modelopt.core.changes import Effect, Skip
from modelopt.core.targets import ACCELERATORS
from modelopt.engine import output_paths, settings
from modelopt.engine.opening import OpenRun
from modelopt.io.staging import Metadata
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import Recipe
from modelopt.report import PassResult, verdict


@dataclass(frozen=True)
class StagedResult:
    """What a run would write.

    Attributes:
        file: The file under a temporary name.
        output: The name that it is to have.
        passes: What the passes did of what is in it.
    """

    file: io.Staged
    output: Path
    passes: tuple[PassResult, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the file is a copy of the input."""
        return not any(result.rewrites for result in self.passes)


@contextlib.contextmanager
def stage(run: OpenRun, results: tuple[PassResult, ...], metadata: Metadata) -> Iterator[StagedResult]:
    """Write the result beside its final name, or a copy of the input where `why_none` says so.

    Args:
        run: The run; its input's model is the result now.
        results: What the passes did.
        metadata: See `io.staged`.
    """
    request, source, model = run.request, run.loaded, run.loaded.model
    unchanged = not any(result.rewrites for result in results)
    external, output = request.external_data, output_paths.choose(results, *request.outputs)
    with io.staged(
        model, output, source=source, unchanged=unchanged, metadata=metadata, external_data=external
    ) as staged:
        grown = graph.weight_bytes(model) - results[0].before.weight_bytes if results else 0
        size_ratio = staged.size_bytes / max(1, source.size_bytes)
        reason = None if request.keep else why_none(run.recipe, results, grown, size_ratio)
        if reason is None:
            yield StagedResult(staged, output, results)
            return
    results = _without_effect(results, _asked(run.recipe), reason)
    output = output_paths.choose(results, *request.outputs)
    with io.staged(run.reload(), output, source=source, unchanged=True, external_data=external) as staged:
        yield StagedResult(staged, output, results)


def why_none(recipe: Recipe, results: Sequence[PassResult], grown_bytes: int, size_ratio: float) -> str | None:
    """Why a copy of the input is written in place of the result; empty where the asked pass's refusals say it already.

    There are two cases. The pass that was asked for did nothing, and what is left are the changes of passes that
    prepare it, or weights that exact passes made larger: nobody asked for those alone. Or it did its work to make the
    model smaller, or behind a conversion to float32, and the file is larger.

    Args:
        recipe: The recipe.
        results: What its passes did.
        grown_bytes: How much more the weights take than those of the input.
        size_ratio: The file's size over the input's.
    """
    asked = _asked(recipe)
    if asked is None or not any(result.rewrites for result in results):
        return None
    changed = {result.step for result in results if result.rewrites}
    prepared = any(step.prepares and step != asked and str(step) in changed for step in recipe.passes())
    if str(asked) in changed:
        shrinks = asked.shrinks and settings.target_of(recipe).kind not in ACCELERATORS
        larger = (shrinks or prepared) and size_ratio > 1
        return f"{verdict.LARGER}, by {size_ratio - 1:.1%}" if larger else None
    only_exact = all(result.effect == Effect.EXACT.value for result in results if result.rewrites)
    return "" if prepared or (only_exact and grown_bytes > 0) else None


def _asked(recipe: Recipe) -> Pass | None:
    """The last pass of a recipe that changes what the model computes: what the recipe is for."""
    passes = [step for step in recipe.passes() if step.effect is not Effect.EXACT]
    return passes[-1] if passes else None


def _without_effect(results: Sequence[PassResult], asked: Pass | None, reason: str) -> tuple[PassResult, ...]:
    """The results of passes whose changes are dropped."""
    found = []
    for result in results:
        why = (Skip("model", reason),) if reason and result.step == str(asked) else ()
        skipped = why or result.skipped
        found.append(
            msgspec.structs.replace(result, rewrites=0, skipped=skipped, facts={}, tensors=(), after=result.before)
        )
    return tuple(found)
