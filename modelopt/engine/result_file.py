"""What a run writes: its result, or the input where the result would be none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir

from modelopt import graph, io
from modelopt.core.changes import Effect
from modelopt.core.targets import ACCELERATORS
from modelopt.engine import measurements, output_paths
from modelopt.io.staging import Metadata
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import Recipe
from modelopt.report import PassResult, SkipInfo, verdict


@dataclass(frozen=True)
class Made:
    """What was made of the input.

    Attributes:
        staged: The file, which does not have its name yet.
        output: That name.
        results: What the passes did of it.
    """

    staged: io.Staged
    output: Path
    results: tuple[PassResult, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the file is a copy of the input."""
        return not any(result.rewrites for result in self.results)


@contextlib.contextmanager
def made(
    recipe: Recipe,
    loaded: io.Loaded,
    results: tuple[PassResult, ...],
    outputs: tuple[Path, Path | None, Path | None],
    *,
    metadata: Metadata,
    external_data: io.ExternalData,
    reload: Callable[[], ir.Model],
    keep: bool,
) -> Iterator[Made]:
    """Write the result beside its final name, or a copy of the input where `why_none` says so.

    Args:
        recipe: The recipe.
        loaded: The input; its model is the result.
        results: What the passes did.
        outputs: See `naming.choose`.
        metadata: See `io.staged`.
        external_data: See `io.staged`.
        reload: Gives the input's model anew.
        keep: The user wants the result whatever it is.
    """
    unchanged = not any(result.rewrites for result in results)
    output = output_paths.choose(results, *outputs)
    with io.staged(
        loaded.model, output, source=loaded, unchanged=unchanged, metadata=metadata, external_data=external_data
    ) as staged:
        grown = graph.weight_bytes(loaded.model) - results[0].before.weight_bytes if results else 0
        reason = None if keep else why_none(recipe, results, grown, staged.size_bytes / max(1, loaded.size_bytes))
        if reason is None:
            yield Made(staged, output, results)
            return
    results = _without_effect(results, _asked(recipe), reason)
    output = output_paths.choose(results, *outputs)
    with io.staged(reload(), output, source=loaded, unchanged=True, external_data=external_data) as staged:
        yield Made(staged, output, results)


def why_none(recipe: Recipe, results: Sequence[PassResult], grown_bytes: int, size_ratio: float) -> str | None:
    """Why the result of the passes is no result; empty where the refusals of the pass that was asked for say it.

    A conversion that is asked for and finds nothing to do leaves what passes did to prepare it, and weights that exact
    passes multiplied out: nobody asked for those alone. What is converted for its size must not be larger, nor may it
    be so because float32 went first.

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
        shrinks = asked.shrinks and measurements.target_of(recipe).kind not in ACCELERATORS
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
        why = (SkipInfo(node="model", reason=reason),) if reason and result.step == str(asked) else ()
        skipped = why or result.skipped
        found.append(
            msgspec.structs.replace(result, rewrites=0, skipped=skipped, facts={}, tensors=(), after=result.before)
        )
    return tuple(found)
