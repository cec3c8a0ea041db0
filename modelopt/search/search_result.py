"""What a search found: the recipes to run, and why these."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.recipe.recipe import Recipe
from modelopt.report import Offender, PruningFound, Trial


@dataclass(frozen=True)
class SearchResult:
    """Recipes to run until one keeps the contract, and why these.

    Attributes:
        recipes: In order of preference.
        trials: What was tried, in order.
        offenders: The nodes that cost accuracy, worst first.
        notes: Why the data say nothing of accuracy, where they do not.
        advice: What to set for the model of the first recipe, if anything.
        pruning: What a search over widths of channels found.
    """

    recipes: tuple[Recipe, ...]
    trials: tuple[Trial, ...] = ()
    offenders: tuple[Offender, ...] = ()
    notes: tuple[str, ...] = ()
    advice: str | None = None
    pruning: PruningFound | None = None
