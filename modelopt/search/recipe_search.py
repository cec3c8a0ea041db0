"""What the key `search` of a recipe does: it chooses recipes by measuring, before the engine runs one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from modelopt.core.errors import ModeloptError
from modelopt.engine.optimize import Request
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import PRUNING_ELEMENTS, Recipe, Search, Step
from modelopt.search.search_result import SearchResult

# The searches and their passes are imported where they are used: `fold` and `fuse` start without them.
_INTEGER = frozenset({"quantize-static", "quantize-dynamic"})
_HALF = "convert-half"

Rescue = Callable[[Request, ModeloptError], SearchResult]
"""Finds another recipe where onnxruntime does not take a result, or raises the error where there is none."""


def tries_others(recipe: Recipe) -> bool:
    """Whether other recipes are made and measured before one runs.

    Other ways to quantize are tried only where something tells them apart: measured speed, or accuracy under a limit.
    """
    if recipe.search is not Search.QUANTIZE:
        return recipe.search is not None
    measures = recipe.evaluate is not None or recipe.verify or recipe.bench is not None
    return measures and (_name_of(recipe.steps[-1]) in _INTEGER or recipe.gates.max_drop is not None)


def _name_of(step: Step) -> str | None:
    return step.name if isinstance(step, Pass) else None


def choose(request: Request) -> SearchResult:
    """The recipes to run for a request, best first; without a search, its own.

    Raises:
        ModeloptError: As `engine.run`.
    """
    recipe = request.recipe
    steps = dataclasses.replace(recipe, search=None)
    if not tries_others(recipe):
        return SearchResult((steps,))
    if recipe.search is Search.KEEP_IF_FASTER:
        from modelopt.search.fusion_search import keep_if_faster

        groups = recipe.contrib_groups()
        steps = dataclasses.replace(steps, steps=recipe.steps[: -len(groups)])
        return keep_if_faster(dataclasses.replace(request, recipe=steps), groups)
    if recipe.search is Search.PRUNE and _name_of(recipe.steps[-1]) == PRUNING_ELEMENTS:
        from modelopt.search.sparsity_search import largest_sparsity

        return largest_sparsity(dataclasses.replace(request, recipe=steps))
    if recipe.search is Search.PRUNE:
        from modelopt.search.pruning_search import choose_widths

        return choose_widths(dataclasses.replace(request, recipe=steps))
    from modelopt.search.quantization_search import keep_contract

    return keep_contract(dataclasses.replace(request, recipe=steps), _others(recipe.steps[-1]))


def rescue_of(recipe: Recipe) -> Rescue | None:
    """What to do where onnxruntime does not take the result; None where nothing is known that helps.

    Half precision is such a case: the nodes that onnxruntime does not take can be found, and stay in float32.
    """
    if not recipe.steps or _name_of(recipe.steps[-1]) != _HALF:
        return None
    if recipe.search is not Search.QUANTIZE:
        return _hint
    from modelopt.search.crash_search import without_crash

    return without_crash


def _hint(_request: Request, error: ModeloptError) -> SearchResult:
    error.hint = (
        "leave out --no-search, or write 'search: quantize' in the recipe: the nodes that onnxruntime does not take in "
        "half precision are found then"
    )
    raise error


def _others(step: Step) -> Sequence[Pass]:
    """Passes to try beside the one that was asked for: products may be faster with ranges measured at run time.

    Where int8 pays is an estimate, which a measurement may refute. So dynamic int8 of all products is tried, too.
    Nothing is tried where the user said something of single nodes or of the inputs' types: that holds for one pass.
    """
    from modelopt.passes.quantize_dynamic import QuantizeDynamic
    from modelopt.passes.quantize_static import QuantizeStatic

    if not isinstance(step, QuantizeStatic | QuantizeDynamic) or step.include or step.exclude:
        return []
    everywhere = QuantizeDynamic(per_channel=step.per_channel is not False, everywhere=True)
    if isinstance(step, QuantizeDynamic):
        return [everywhere]
    told = step.override is not None or step.integer_io
    return [] if told else [dataclasses.replace(everywhere, everywhere=False), everywhere]
