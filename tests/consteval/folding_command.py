"""Folds a model at the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelopt.engine import optimize
from modelopt.recipe import pipelines
from modelopt.recipe.recipe import Recipe

# freeze-dims


def fold(model: Path, output: Path, *steps: Any, **fields: Any) -> Any:
    group = pipelines.until_stable(pipelines.FOLD)
    recipe = Recipe(steps=(*steps, group), **fields)
    return optimize.run(optimize.Request(recipe=recipe, model=model, output=output))
