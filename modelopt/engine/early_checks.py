"""Refuses what is wrong in a recipe before the model is read: a mistake in a flag must not cost a large file's load.

What depends on the model (names of nodes, of inputs, shapes of data) is refused later, by what uses it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from modelopt.core.errors import InputError
from modelopt.data import user_files
from modelopt.data.open_data import script_of
from modelopt.data.preprocess_config import read_preprocess
from modelopt.engine import gates, settings
from modelopt.graph import match
from modelopt.measure.registry import parse_all
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import DataSpec, Recipe
from modelopt.runtime import installation
from modelopt.runtime.session import SessionSpec


def require(recipe: Recipe, memory: Collection[str] = ()) -> None:
    """Refuse what makes no sense for any model.

    Args:
        recipe: The recipe.
        memory: How the recipe calls data that are in memory.

    Raises:
        InputError: A gate cannot be judged; a file, metric, provider or operator set does not exist; or a value cannot
            be read.
    """
    gates.require(recipe)
    parse_all(settings.metrics_of(recipe))
    for data in (recipe.calibration, recipe.evaluate):
        if data is not None:
            require_data(data, memory)
    if recipe.bench is not None:
        require_provider(recipe.bench.provider)
    for step in recipe.passes():
        _require_options(step)


def require_data(spec: DataSpec, memory: Collection[str] = ()) -> None:
    """Refuse data that do not exist, and a preprocessing that cannot be parsed.

    Raises:
        InputError: One of the two.
    """
    if spec.preprocess:
        read_preprocess(spec.preprocess)
    if spec.data in memory and spec.preprocess:
        raise InputError("arrays in memory are not preprocessed", hint="leave out the preprocessing")
    if spec.data != "random" and spec.data not in memory:
        script = script_of(spec.data)
        user_files.existing(Path(spec.data) if script is None else script[0])
    if spec.labels:
        user_files.existing(Path(spec.labels))
    if spec.tokenizer:
        user_files.existing(Path(spec.tokenizer))


def require_provider(name: str) -> None:
    """Refuse an execution provider that does not exist.

    Raises:
        InputError: There is no provider of that name.
    """
    installation.known_spec(SessionSpec(provider=name))


def _require_options(step: Pass) -> None:
    step.check()
    for pattern in (*getattr(step, "include", ()), *getattr(step, "exclude", ())):
        match.expression(pattern)
